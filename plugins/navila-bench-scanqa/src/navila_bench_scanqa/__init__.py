"""ScanQA, questions about scanned rooms, as a benchmark of navila."""
