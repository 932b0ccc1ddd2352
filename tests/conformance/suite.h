// The contract of bus/bus.h as a suite that every transport passes. To add a transport: derive a Harness, and add one line
// to the list in transport_test.cc.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/bus.h"
#include "tests/support/broker.h"

namespace leat::conformance {

// One transport under test, with storage of its own. The suite drives it from several threads.
class Harness {
 public:
  virtual ~Harness() = default;
  // The transport now.
  virtual bus::Transport& transport() = 0;
  // Closes the transport and opens it again on the same storage; subscriptions are gone by then.
  virtual void Reopen() = 0;
  // What the transport talks to; null where there is nothing.
  virtual test::Broker* broker() { return nullptr; }
  // How group_member.cc opens it in another process; empty where no other process can.
  virtual std::vector<std::string> from_elsewhere() { return {}; }
  // What the transport's own tools show of a group; nothing where they show nothing.
  virtual std::optional<uint64_t> Committed(const std::string& /*topic*/, const std::string& /*group*/,
                                            uint32_t /*partition*/) {
    return std::nullopt;
  }
};

struct TransportUnderTest {
  std::string name;
  // With brief timeouts a broker is away for longer than all of them.
  std::function<std::unique_ptr<Harness>(bool brief_timeouts)> make;
};

// How a case ended, for the table.
struct CaseResult {
  std::string name;
  uint64_t assertions = 0;
  bool ran = false;
  std::chrono::steady_clock::duration took{};
  std::string skipped;  // why, where `Features` says that the transport cannot do it
};

// Runs every case, each on a harness of its own, and tells how it ended. LEAT_CASE=text runs those alone whose name has it.
void RunSuite(const TransportUnderTest& transport,
              const std::function<void(const CaseResult&)>& on_result);

}  // namespace leat::conformance
