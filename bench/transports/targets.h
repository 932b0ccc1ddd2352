// What a bench has measured, beside its targets. A bench exits with 1 when one is missed.
#pragma once

#include <cstdio>

namespace leat::bench {

class Targets {
 public:
  void AtLeast(const char* what, double measured, double target) {
    Judge(what, measured, "at least", target, measured >= target);
  }
  void AtMost(const char* what, double measured, double target) {
    Judge(what, measured, "at most", target, measured <= target);
  }
  int exit_code() const { return missed_ ? 1 : 0; }

 private:
  void Judge(const char* what, double measured, const char* relation, double target, bool met) {
    std::printf("%-6s %s: %.2f, target %s %.2f\n", met ? "met" : "MISSED", what, measured, relation,
                target);
    std::fflush(stdout);
    missed_ |= !met;
  }
  bool missed_ = false;
};

}  // namespace leat::bench
