"""Score navigation, video and image models: runner, metrics, statistics, reports."""
