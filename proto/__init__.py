"""The wire: messages generated from attribution.proto, and what turns arrays and values into them."""
