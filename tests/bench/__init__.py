"""What Muster costs on a large cluster, beside a floor that does the same work and thinks about nothing."""
