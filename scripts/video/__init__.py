"""`plasticity watch`: a trained ant at play, as a GIF, a video or a strip of pictures."""
