// Weights as JavaScript describes them: addon.cc.
#pragma once

#include <napi.h>

#include "handles.h"

namespace lowbit {

/// The sizes of a weight, without its memory. Throws for a spec that cannot be.
Weight planned(const Napi::Value& spec);

/// Floats beside the codes: how many scales, zeros, and numbers of a table.
struct Extras {
  size_t scale = 0;
  size_t zero = 0;
  size_t table = 0;
  size_t pairs = 0;  // bytes that are made of a table of pairs
};
Extras extras(const Weight& weight, const Napi::Value& spec);

/// A weight without numbers, to be asked for its sizes alone.
Weight hollow(const Napi::Value& spec);

/// What kernels need of a table, made of it, or taken from a weight `like` it that has the same one. Throws std::bad_alloc.
void make_tables(HeldWeight& held, const HeldWeight* like = nullptr);

/// packWeight, saveWeight, loadWeights: packing.cc.
void add_packing_functions(Napi::Env env, Napi::Object exports);

}  // namespace lowbit
