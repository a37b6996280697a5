"""What the HTTP port answers: the Open Inference Protocol, pictures to labels, and a page of it all."""
