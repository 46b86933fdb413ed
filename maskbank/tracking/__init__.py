"""The tracker: the loop between network and bank, frame by frame or through a whole video."""
