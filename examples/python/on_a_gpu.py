"""torch tensor in, torch tensor out, and nothing leaves the GPU: python on_a_gpu.py engines/… 512x512

Wants TensorRT plans for this card (`fiffdepth build engines/…`) and a grid that they were built for. Written
and held against a stand-in for CUDA; never run on a GPU.
"""

import sys

import torch

import fiffdepth_rt

height, width = map(int, sys.argv[2].split("x"))
frames = torch.randint(0, 256, (4, height, width, 3), dtype=torch.uint8, device="cuda")  # your decoder's
result = torch.empty((height, width), dtype=torch.float32, device="cuda")

with fiffdepth_rt.Depth(sys.argv[1], size=(height, width)) as depth:
    stream = torch.cuda.current_stream()
    for frame in frames:
        depth.infer_on_gpu(frame, out=result, cuda_stream=stream)
        print(f"mean {result.mean().item():.3f} on {result.device}")
