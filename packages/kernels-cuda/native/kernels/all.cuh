// Every kernel.
#pragma once

#include "attention.cuh"
#include "elementwise.cuh"
#include "fused.cuh"
#include "gemv.cuh"
#include "hadamard.cuh"
#include "int8.cuh"
#include "largest.cuh"
#include "linear.cuh"
#include "mma.cuh"
#include "norm.cuh"
#include "planes.cuh"
#include "quantize.cuh"
#include "repack.cuh"
#include "wide.cuh"
