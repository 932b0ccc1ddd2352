// Progress of long work: a bar with rate and ETA on a terminal, a plain line now and then elsewhere.
#pragma once

#include <cstdint>
#include <chrono>
#include <string>
#include <string_view>

namespace leat::core {

// Not thread-safe. Writes to standard error. Ends its line when destroyed.
class Progress {
 public:
  // `unit` names what is counted ("blocks"); total 0 means unknown.
  Progress(std::string label, std::string unit, uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cheap enough to call for every item: it writes at most ten times a second on a terminal and once in five
  // seconds elsewhere.
  void Update(uint64_t done);
  void SetTotal(uint64_t total) { total_ = total; }

 private:
  using Clock = std::chrono::steady_clock;
  void Print(Clock::time_point now, bool last);

  std::string label_;
  std::string unit_;
  uint64_t total_;
  uint64_t done_ = 0;
  bool terminal_;
  bool printed_ = false;
  Clock::time_point started_;
  Clock::time_point next_print_;
};

// "1,234,567"
std::string WithThousands(uint64_t value);

}  // namespace leat::core
