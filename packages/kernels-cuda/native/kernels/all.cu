// For nvcc: every kernel.
#include "all.cuh"
