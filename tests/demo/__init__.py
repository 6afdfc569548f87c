"""The demonstration: a small mesh on one machine. No part of the product."""
