"""What is read and written: images, frames, masks, pictures, videos."""
