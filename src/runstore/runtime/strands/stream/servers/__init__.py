"""The answers of models' servers, mended and completed where strands leaves parts out: a file for each."""
