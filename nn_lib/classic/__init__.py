"""What learns, or once learnt, without the gradient of a loss through autodiff."""
