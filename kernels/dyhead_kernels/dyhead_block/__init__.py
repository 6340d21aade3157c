"""One DyHead block over a pyramid, in four steps: offsets, deform_conv, attention, mix.

A step has the same name everywhere: in its folder here (`../deform_conv/packed/` for deform_conv) stand the formula
(`reference.py`), the form for CPUs (`torch.py`), the kernels (`kernels.py`) and their launches (`triton.py`); its
kernels, entries of launch tables, tests and timings begin with its name.

Launches of one block, in order, with what each reads and writes. Parameters are read where a step needs them; a
bracketed launch is made for some dtypes or offset modes only.

forward                       reads                                        writes
----------------------------  -------------------------------------------  ----------------------------------------
[offsets_split]               offset_weight                                its parts in half precision
offsets_forward               values                                       offset_mask
[offsets_resize]              offset_mask                                  offset_mask, on the coarser levels' grids
deform_conv_forward           values, offset_mask                          convolved, statistics of its pieces
attention_moments             statistics of pieces                         moments
attention_forward             moments                                      coefficients, hidden
mix_forward                   convolved, moments, coefficients             output

backward                      reads                                        writes
----------------------------  -------------------------------------------  ----------------------------------------
mix_backward                  grad_output, convolved, moments,             grad_mixed, sums of tiles
                              coefficients
attention_sums                sums of tiles                                gradients of coefficients
attention_backward            those gradients, coefficients, moments,      grad_moments; gradients of norm_*, scale_*,
                              hidden                                       relu_* and conv_bias
mix_branches_backward         grad_mixed, grad_moments, convolved,         grad_convolved
                              moments, coefficients
deform_conv_backward          grad_convolved, values, offset_mask          gradients of offsets and masks; part of
                                                                           grad_values
deform_conv_weight_backward   grad_convolved, values, offset_mask          gradient of conv_weight
offsets_backward              gradients of offsets and masks, offset_mask  grad_logits; gradient of offset_bias by tile
offsets_weight_backward       grad_logits, values                          gradient of offset_weight
offsets_values_backward       grad_logits, part of grad_values             grad_values

Where launch tables say `WINDOWED`, as for sums in fixed point, deform_conv_backward is launched for each stride, and
leaves the corners in windows of the map to a deform_conv_window_backward behind it.

The plain PyTorch form goes through the same steps in the same order, level by level.
"""
