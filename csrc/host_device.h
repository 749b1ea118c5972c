// Marks a function that both the CPU and the CUDA kernels call: its arithmetic is then covered by
// the CPU's tests.
#pragma once

#ifdef __CUDACC__
#define FASTMTE_HD __host__ __device__
#else
#define FASTMTE_HD
#endif
