"""What models' servers send, each in a file of its own: mended, and completed by what strands leaves out."""
