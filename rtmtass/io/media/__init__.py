"""Audio tracks of videos and of other files that libsndfile can't read, by PyAV or ffmpeg."""
