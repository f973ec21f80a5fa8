"""What a run is: its plan, its folder, its instances on disk, its locks."""
