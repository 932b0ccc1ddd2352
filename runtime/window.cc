#include "runtime/window.h"

#include <cstring>
#include <string>

#include "core/hash.h"

namespace leat::runtime {

size_t Window::KeyHash::operator()(const Key& key) const {
  size_t hash;
  std::memcpy(&hash, key.data.data(), sizeof hash);
  return hash;
}

bool Window::Add(std::string_view source, std::string_view id) {
  std::string length;  // so that no part of one can pass for a part of the other
  core::AppendVarint(source.size(), &length);
  const auto hash = core::Sha256(length, source, id);
  const Key key = Key::From(hash.View().substr(0, Key::kSize));
  if (!known_.insert(key).second) return false;
  if (ring_.size() < kWindowEvents) {
    ring_.push_back(key);
  } else {
    Key& oldest = ring_[count_ % kWindowEvents];
    known_.erase(oldest);
    oldest = key;
  }
  ++count_;
  return true;
}

}  // namespace leat::runtime
