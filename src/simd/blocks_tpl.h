static const pd_block_ops N(block_ops) = {0};
