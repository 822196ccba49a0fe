"""VMamba and 2DVMamba: the backbone of images, what is built on it, and what it looks at."""
