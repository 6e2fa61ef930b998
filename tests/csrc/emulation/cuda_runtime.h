// Runs CUDA kernels on the CPU, for tests: in the place of CUDA's cuda_runtime.h it lets g++ compile csrc/cuda/*.cu
// unmodified. Every thread of a block is a fiber, one block runs at a time, a launch is a loop that has ended when the
// call returns.
//
// A fiber runs until it waits for others (__syncthreads, a shuffle), and a warp as far ahead of the others as it can.
// `state().order` changes who is first among threads, warps and blocks: results that depend on it show a race. What it
// catches besides: barriers that not all threads reach, launches that a GPU would refuse, and, under AddressSanitizer,
// every access outside of an array. What it cannot show: speed, the memory model, the arithmetic of the hardware.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(threads)
#define __shared__ static  // one block at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
typedef struct Stream* cudaStream_t;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  }
  return "unrecognized error code";
}

namespace emulation {

constexpr unsigned kWarpSize = 32;
constexpr size_t kStack = 64 << 10;  // bytes of a fiber's

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what);
  std::abort();
}

// Threads that wait for each other: a barrier opens when all of them have arrived, and its count of openings grows.
struct Barrier {
  unsigned size, arrived = 0, openings = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  dim3 index;
  Barrier* warp;
  uint32_t (*exchanged)[kWarpSize];  // [2]: the words of a shuffle, two buffers by turns
  unsigned lane, shuffles = 0;
  bool done;
  void* sanitizer = nullptr;
};

// What runs now.
struct State {
  dim3 grid, block, block_index;
  std::vector<Fiber> fibers;
  Fiber* fiber = nullptr;
  ucontext_t scheduler;
  Barrier all;
  bool progress;  // whether a fiber got past a barrier, or ended, since this was last made false
  std::function<void()> body;
  unsigned order = 0;  // of threads, warps and blocks: 0 is ascending, any other number seeds a shuffle
  void* sanitizer = nullptr;
  const void* stack_bottom = nullptr;  // the scheduler's
  size_t stack_size = 0;
};

inline State& state() {
  static State now;
  return now;
}

// AddressSanitizer has to be told of every change of the stack.
inline void switching(void** save, const void* bottom, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(save, bottom, size);
#else
  (void)save, (void)bottom, (void)size;
#endif
}
inline void switched(void* saved, const void** bottom, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, bottom, size);
#else
  (void)saved, (void)bottom, (void)size;
#endif
}

inline void yield() {
  State& s = state();
  Fiber& fiber = *s.fiber;
  switching(fiber.done ? nullptr : &fiber.sanitizer, s.stack_bottom, s.stack_size);
  swapcontext(&fiber.context, &s.scheduler);
  switched(fiber.sanitizer, &s.stack_bottom, &s.stack_size);
}

inline void wait(Barrier& barrier) {
  const unsigned opening = barrier.openings;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.openings;
  }
  while (barrier.openings == opening) yield();
  state().progress = true;
}

inline void run_fiber() {
  State& s = state();
  switched(nullptr, &s.stack_bottom, &s.stack_size);
  s.body();
  s.fiber->done = true;
  yield();
}

// Runs a fiber until it waits; whether it has ended.
inline bool run_some(Fiber& fiber) {
  State& s = state();
  s.fiber = &fiber;
  switching(&s.sanitizer, fiber.stack.get(), kStack);
  swapcontext(&s.scheduler, &fiber.context);
  switched(s.sanitizer, nullptr, nullptr);
  s.progress = s.progress || fiber.done;
  return fiber.done;
}

// 0 to n - 1 in the order that was asked for.
inline std::vector<unsigned> shuffled(size_t n) {
  std::vector<unsigned> turns(n);
  std::iota(turns.begin(), turns.end(), 0);
  if (state().order) std::shuffle(turns.begin(), turns.end(), std::minstd_rand(state().order));
  return turns;
}

inline void run_block() {
  State& s = state();
  const unsigned threads = s.block.x * s.block.y * s.block.z, warps = (threads + kWarpSize - 1) / kWarpSize;
  if (s.fibers.size() < threads) s.fibers = std::vector<Fiber>(threads);
  std::vector<Barrier> barriers(warps);
  std::vector<uint32_t> exchanged(warps * 2 * kWarpSize);
  s.all = {threads};
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = s.fibers[t];
    const unsigned w = t / kWarpSize;
    fiber.index = {t % s.block.x, t / s.block.x % s.block.y, t / (s.block.x * s.block.y)};
    fiber.warp = &barriers[w];
    fiber.exchanged = reinterpret_cast<uint32_t(*)[kWarpSize]>(&exchanged[w * 2 * kWarpSize]);
    fiber.lane = t % kWarpSize;
    fiber.shuffles = 0;
    fiber.done = false;
    barriers[w].size = std::min(kWarpSize, threads - w * kWarpSize);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
  }
  const std::vector<unsigned> turns = shuffled(threads);
  for (unsigned left = threads; left;) {
    bool any = false;
    for (unsigned w : shuffled(warps)) {
      do {  // a warp runs ahead of the others as far as it can
        s.progress = false;
        for (unsigned t : turns)
          if (t / kWarpSize == w && !s.fibers[t].done) left -= run_some(s.fibers[t]);
        any = any || s.progress;
      } while (s.progress);
    }
    if (!any) fail("some threads of a block wait where the others never come");
  }
}

inline cudaError_t launch(std::function<void()> body, dim3 grid, dim3 block) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFF ||
      grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  State& s = state();
  s.grid = grid, s.block = block, s.body = std::move(body);
  for (uint64_t b : shuffled(size_t(grid.x) * grid.y * grid.z)) {
    s.block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    run_block();
  }
  s.body = nullptr;
  return cudaSuccess;
}

}  // namespace emulation

#define threadIdx (emulation::state().fiber->index)
#define blockIdx (emulation::state().block_index)
#define blockDim (emulation::state().block)
#define gridDim (emulation::state().grid)

template <typename P>
cudaError_t cudaLaunchKernel(void (*kernel)(P), dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t) {
  const P parameters = *static_cast<const P*>(arguments[0]);  // by value, as a launch takes them
  return emulation::launch([kernel, parameters] { kernel(parameters); }, grid, block);
}

struct cudaFuncAttributes {};

template <typename P>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(P)) {
  return cudaSuccess;
}

inline void __syncthreads() { emulation::wait(emulation::state().all); }

inline float __shfl_xor_sync(unsigned mask, float value, int apart) {
  if (mask != 0xFFFFFFFFu) emulation::fail("a shuffle of some lanes only is not emulated");
  emulation::Fiber& fiber = *emulation::state().fiber;
  if (fiber.warp->size != emulation::kWarpSize) emulation::fail("a shuffle in a warp that is not full");
  uint32_t* const words = fiber.exchanged[fiber.shuffles++ % 2];
  std::memcpy(&words[fiber.lane], &value, sizeof value);
  emulation::wait(*fiber.warp);
  std::memcpy(&value, &words[fiber.lane ^ unsigned(apart)], sizeof value);
  return value;
}
