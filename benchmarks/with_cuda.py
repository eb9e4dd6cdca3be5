"""The floor on a GPU: one fused CUDA kernel that computes the figures of a run, by CuPy.

Narrow batches are a thread each, wide ones a block of threads each; the parameters lie in shared memory, and nothing
but x, y and the figures touches the card's memory. a1's extremes are those of z1 through relu, which does not decrease.
"""

from typing import Any

import numpy as np

from benchmarks.problem import ALL, LEVELS, LOSS, Figures, Problem, Run, counts, moments

_WIDE = 256  # samples from which a batch is a block
_SOURCE = r"""
#define INF __int_as_float(0x7f800000) /* NVRTC has no math.h */
#define EACH(i, n) for (int i = 0; i < n; i++)
#define OVER_WARP(v, f) for (int o = 16; o; o >>= 1) v = f(v, __shfl_xor_sync(~0u, v, o))
__device__ float add(float a, float b) { return a + b; }

extern "C" __global__ void see(const float* __restrict__ x, const float* __restrict__ y, const float* __restrict__ w1,
                               const float* __restrict__ b1, const float* __restrict__ w2, float b2, float p1, float pa,
                               float p2, int K, int B, float* __restrict__ out, float* __restrict__ sums) {
  __shared__ float3 units[HIDDEN];
  for (int h = threadIdx.x; h < HIDDEN; h += blockDim.x) units[h] = make_float3(w1[h], b1[h], w2[h]);
  __syncthreads();
  float s[9] = {0}; /* z1, z1^2, a1, a1^2, z2, z2^2 about pivots; zeros of z1, a1, z2 */
  int k = WIDE ? blockIdx.x : blockIdx.x * blockDim.x + threadIdx.x;
  float e = 0, low = INF, high = -INF, low2 = INF, high2 = -INF;
  if (k < K) for (int i = WIDE ? threadIdx.x : 0; i < B; i += WIDE ? blockDim.x : 1) {
    long j = (long)k * B + i;
    float v = x[j], z2 = b2;
    #pragma unroll 16
    for (int h = 0; h < HIDDEN; h++) {
      float3 unit = units[h];
      float z = fmaf(v, unit.x, unit.y), a = fmaxf(z, 0.f);
      z2 = fmaf(a, unit.z, z2);
      if (LEVEL > 0) { low = fminf(low, z); high = fmaxf(high, z); }
      if (LEVEL > 1) {
        float d = z - p1, c = a - pa;
        s[0] += d; s[1] = fmaf(d, d, s[1]); s[2] += c; s[3] = fmaf(c, c, s[3]);
        s[6] += z == 0.f ? 1.f : 0.f; s[7] += a == 0.f ? 1.f : 0.f;
      }
    }
    float d = z2 - y[j], c = z2 - p2;
    e = fmaf(d, d, e);
    if (LEVEL > 0) { low2 = fminf(low2, z2); high2 = fmaxf(high2, z2); }
    if (LEVEL > 1) { s[4] += c; s[5] = fmaf(c, c, s[5]); s[8] += z2 == 0.f ? 1.f : 0.f; }
  }
  bool writes = k < K;
  if (WIDE) {
    __shared__ float of_warps[5][32];
    OVER_WARP(e, add); OVER_WARP(low, fminf); OVER_WARP(high, fmaxf); OVER_WARP(low2, fminf); OVER_WARP(high2, fmaxf);
    int w = threadIdx.x >> 5, warps = blockDim.x >> 5;
    if (!(threadIdx.x & 31)) {
      of_warps[0][w] = e; of_warps[1][w] = low; of_warps[2][w] = high; of_warps[3][w] = low2; of_warps[4][w] = high2;
    }
    __syncthreads();
    writes = threadIdx.x == 0;
    if (writes) for (int i = 1; i < warps; i++) {
      e += of_warps[0][i]; low = fminf(low, of_warps[1][i]); high = fmaxf(high, of_warps[2][i]);
      low2 = fminf(low2, of_warps[3][i]); high2 = fmaxf(high2, of_warps[4][i]);
    }
  }
  if (writes) {
    out[k] = e / B;
    if (LEVEL > 0) {
      out[K + k] = low; out[2L * K + k] = fmaxf(low, 0.f); out[3L * K + k] = low2;
      out[4L * K + k] = high; out[5L * K + k] = fmaxf(high, 0.f); out[6L * K + k] = high2;
    }
  }
  if (LEVEL > 1) {
    EACH(i, 9) OVER_WARP(s[i], add);
    long warp = (blockIdx.x * (long)blockDim.x + threadIdx.x) >> 5;
    if (!(threadIdx.x & 31)) EACH(i, 9) sums[9 * warp + i] = s[i];
  }
}
"""


def fused(problem: Problem, level: str) -> Run:
    """Return the kernel, ready to run.

    Raises:
        ImportError: there is no CuPy, or no card for it.
    """
    import cupy

    if not cupy.cuda.is_available():
        raise ImportError("CuPy finds no card")
    wide, batches = problem.batch >= _WIDE, problem.batches
    options = (f"-DLEVEL={LEVELS.index(level)}", f"-DWIDE={int(wide)}", f"-DHIDDEN={problem.hidden}")
    see = cupy.RawModule(code=_SOURCE, options=(*options, "--use_fast_math")).get_function("see")
    arrays = [cupy.asarray(values) for values in (problem.x, problem.y, problem.w1, problem.b1, problem.w2)]
    threads = 256 if wide else 128
    blocks = batches if wide else -(-batches // threads)
    out = cupy.empty((7, batches), cupy.float32)
    sums = cupy.empty((blocks * threads // 32, 9), cupy.float32)
    scalars = (*map(cupy.float32, (problem.b2, *problem.about)), cupy.int32(batches), cupy.int32(problem.batch))

    def launch() -> None:
        see((blocks,), (threads,), (*arrays, *scalars, out, sums))

    def figures() -> Figures:
        launch()
        if level == LOSS:
            return Figures(out[0].get())
        loss, *ends = out.get()
        low, high = np.array(ends[:3]), np.array(ends[3:])
        if level != ALL:
            return Figures(loss, low, high)
        total: Any = cupy.sum(sums, axis=0, dtype=cupy.float64).get()
        mean, std = moments(counts(problem), total[0:6:2], total[1:6:2], problem.about)
        nonfinite = (~np.isfinite(total[0:6:2])).astype(int)  # a sum is finite only if each of its values is
        return Figures(loss, low, high, mean, std, total[6:].round().astype(np.int64), nonfinite)

    return Run(figures, launch, lambda _: cupy.cuda.Device().synchronize())
