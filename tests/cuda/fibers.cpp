// The scheduler of fibers.h. Compiled without sanitizers, which it tells what it does.
#include "fibers.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Absent unless the address sanitizer is loaded.
#define WEAK extern "C" __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
WEAK void __asan_poison_memory_region(void const volatile*, size_t);
WEAK void __asan_unpoison_memory_region(void const volatile*, size_t);

namespace cuda_on_cpu {

Dim3 thread_index, block_index, block_dim, grid_dim;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 << 10, kShared = 48 << 10, kGap = 64, kGaps = 16;
enum State { kReady, kBarrier, kShuffle, kDone };

using Registers = void* [5];

struct Fiber {
  Registers registers;
  std::vector<char> stack;  // empty until the fiber runs
  State state;
  Place place;              // of the barrier or the shuffle where it waits
  unsigned char value[16];  // what it gives to a shuffle, and then gets
  int source;
  unsigned mask;
  void* fake_stack = nullptr;  // the address sanitizer's
};

struct Machine {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  Registers host;
  void* host_fake_stack = nullptr;
  const void* host_bottom = nullptr;
  size_t host_size = 0;
  void (*body)(const void*) = nullptr;
  const void* closure = nullptr;
  std::mt19937 random{0};
  // Shared memory, new for every block. Gaps between its variables are poisoned.
  unsigned char *arena = nullptr, *dynamic = nullptr;
  size_t used = 0, gaps = 0;
  std::vector<std::pair<const void*, void*>> variables;
} machine;
std::mutex one_launch;

[[noreturn]] void fail(const std::string& text) {
  machine.fibers.clear();  // their threads are not over
  throw std::runtime_error("cuda_on_cpu: " + text);
}

std::string name_of(Place place) {
  const char* slash = std::strrchr(place.file, '/');
  return std::string(slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

bool same(Place a, Place b) { return a.line == b.line && !std::strcmp(a.file, b.file); }

// Goes on where `to` was saved. The builtins take part of a system call's time, which ucontext
// makes.
[[noreturn]] __attribute__((noinline)) void jump(Registers& to) { __builtin_longjmp(to, 1); }
__attribute__((noinline)) void go(Registers& from, Registers& to) {
  if (!__builtin_setjmp(from)) jump(to);
}

// Leaves the current fiber; returns when the scheduler resumes it.
void leave() {
  Fiber& f = *machine.current;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&f.fake_stack, machine.host_bottom, machine.host_size);
  go(f.registers, machine.host);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(f.fake_stack, &machine.host_bottom, &machine.host_size);
}

// A fiber's whole life: one thread after the other.
void live() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &machine.host_bottom, &machine.host_size);
  for (;;) {
    machine.body(machine.closure);
    machine.current->state = kDone;
    leave();
  }
}

// The first entry of a fiber, on a stack of its own.
__attribute__((noinline)) void begin(Fiber& f) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = f.stack.data();
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, &live, 0);
  if (!__builtin_setjmp(machine.host)) setcontext(&context);
}

// Runs a fiber until it waits or ends.
void resume(unsigned i) {
  Fiber& f = machine.fibers[i];
  const bool first = f.stack.empty();
  if (first) f.stack.resize(kStack);
  machine.current = &f;
  thread_index = {i, 0, 0};
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&machine.host_fake_stack, f.stack.data(), kStack);
  first ? begin(f) : go(machine.host, f.registers);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(machine.host_fake_stack, nullptr, nullptr);
}

// If all lanes of a warp wait at one shuffle, exchanges their values and lets them go on.
bool shuffle(unsigned warp) {
  Fiber* const lanes = &machine.fibers[warp * kWarp];
  const unsigned n = std::min(kWarp, block_dim.x - warp * kWarp);
  for (unsigned i = 0; i < n; ++i) {
    if (lanes[i].state != kShuffle) return false;
    if (!same(lanes[i].place, lanes[0].place))
      fail("lanes of a warp at different shuffles: " + name_of(lanes[0].place) + ", " +
           name_of(lanes[i].place));
    if (lanes[i].mask != 0xffffffffu || n != kWarp) fail("shuffle with a partial warp or mask");
  }
  unsigned char values[kWarp][sizeof(Fiber::value)];
  for (unsigned i = 0; i < n; ++i) std::memcpy(values[i], lanes[i].value, sizeof values[i]);
  for (unsigned i = 0; i < n; ++i) {
    const int from = lanes[i].source;
    if (from >= 0 && from < int(kWarp)) std::memcpy(lanes[i].value, values[from], sizeof values[i]);
    lanes[i].state = kReady;
  }
  return true;
}

// If all threads of the block wait at one barrier, lets them go on. False if all have ended.
bool meet(unsigned block) {
  const auto end = machine.fibers.begin() + block;
  const auto in = [&](State state) {
    return std::count_if(machine.fibers.begin(), end, [&](auto& f) { return f.state == state; });
  };
  if (in(kDone) == block) return false;
  if (in(kBarrier) != block)
    fail("a block is stuck: " + std::to_string(in(kBarrier)) + " threads at a barrier, " +
         std::to_string(in(kShuffle)) + " at a shuffle, " + std::to_string(in(kDone)) + " ended");
  const Place first = machine.fibers[0].place;
  for (unsigned i = 0; i < block; ++i) {
    Fiber& f = machine.fibers[i];
    if (!same(f.place, first))
      fail("threads of a block at different barriers: " + name_of(first) + ", " + name_of(f.place));
    f.state = kReady;
  }
  return true;
}

void run_block(const std::vector<unsigned>& order, bool random) {
  const unsigned block = unsigned(order.size()), warps = (block + kWarp - 1) / kWarp;
  for (unsigned i = 0; i < block; ++i) machine.fibers[i].state = kReady;
  std::vector<char> pauses(warps, false);
  const auto draw = [&] {  // in random order some warps wait until no other can go on
    for (char& pause : pauses) pause = random && machine.random() % 2;
  };
  draw();
  do {
    for (bool going = true; going;) {
      bool ready = false;
      going = false;
      for (unsigned i : order) {
        if (machine.fibers[i].state != kReady) continue;
        ready = true;
        if (pauses[i / kWarp]) continue;
        resume(i);
        going = true;
      }
      for (unsigned warp = 0; warp < warps; ++warp) going |= shuffle(warp);
      if (ready && !going) draw(), going = true;
    }
  } while (meet(block));
}

// Shared memory that starts as NaN, with a gap before it.
unsigned char* take(size_t size) {
  if (machine.used + size > kShared || machine.gaps == kGaps - 1) {
    std::fprintf(stderr, "cuda_on_cpu: more than 48 KB or 15 variables of shared memory\n");
    std::abort();
  }
  unsigned char* const at = machine.arena + machine.used + ++machine.gaps * kGap;
  machine.used += (size + 15) / 16 * 16;
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(at, size);
  return at;
}

}  // namespace

void run(unsigned grid, unsigned block, size_t shared_bytes, size_t argument_bytes,
         void (*body)(const void*), const void* closure) {
  const std::lock_guard<std::mutex> lock(one_launch);
  if (grid == 0 || grid > 0x7fffffffu) fail("invalid grid: " + std::to_string(grid));
  if (block == 0 || block > 1024) fail("invalid block: " + std::to_string(block));
  if (shared_bytes > kShared) fail("too much shared memory: " + std::to_string(shared_bytes));
  if (argument_bytes > 4096) fail("too many bytes of arguments: " + std::to_string(argument_bytes));
  const char* const order = std::getenv("CUDA_ON_CPU_ORDER");
  const bool random = order && !std::strcmp(order, "random");
  std::vector<unsigned> threads(block), blocks(grid);
  for (unsigned i = 0; i < block; ++i) threads[i] = i;
  for (unsigned i = 0; i < grid; ++i) blocks[i] = i;
  if (random) std::shuffle(blocks.begin(), blocks.end(), machine.random);
  if (machine.fibers.size() < block) machine.fibers.resize(block);
  machine.body = body, machine.closure = closure;
  grid_dim = {grid, 1, 1}, block_dim = {block, 1, 1};
  std::vector<unsigned char> arena(kShared + kGaps * kGap + 16);
  const auto begin = (reinterpret_cast<size_t>(arena.data()) + 15) / 16 * 16;
  machine.arena = reinterpret_cast<unsigned char*>(begin);
  for (unsigned b : blocks) {
    block_index = {b, 0, 0};
    if (random) std::shuffle(threads.begin(), threads.end(), machine.random);
    std::memset(arena.data(), 0xff, arena.size());
    if (__asan_poison_memory_region) __asan_poison_memory_region(arena.data(), arena.size());
    machine.used = machine.gaps = 0;
    machine.variables.clear();
    machine.dynamic = take(shared_bytes);
    run_block(threads, random);
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(arena.data(), arena.size());
  }
}

void barrier(Place place) {
  machine.current->state = kBarrier, machine.current->place = place;
  leave();
}

void exchange(void* value, size_t size, int source, unsigned mask, Place place) {
  Fiber& f = *machine.current;
  std::memcpy(f.value, value, size);
  f.state = kShuffle, f.place = place, f.source = source, f.mask = mask;
  leave();
  std::memcpy(value, f.value, size);
}

unsigned char* dynamic_shared() { return machine.dynamic; }

void* static_shared(const void* name, size_t size) {
  for (const auto& [known, at] : machine.variables)
    if (known == name) return at;
  return machine.variables.emplace_back(name, take(size)).second;
}

void misaligned(const void* p, size_t size) {
  std::fprintf(stderr, "cuda_on_cpu: misaligned access of %zu bytes at %p\n", size, p);
  std::abort();
}

}  // namespace cuda_on_cpu
