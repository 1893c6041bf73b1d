"""Search: architectures and hyper-parameters, spaces and their driver."""
