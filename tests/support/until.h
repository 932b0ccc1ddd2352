// Waits for what nothing signals.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace leat::test {

// False when it does not hold within a minute.
inline bool Until(const std::function<bool()>& holds) {
  constexpr auto kPatience = std::chrono::seconds(60);
  constexpr auto kLook = std::chrono::milliseconds(2);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

}  // namespace leat::test
