"""Motion over connectivity graphs of Matterport3D: real paths walked without scans."""
