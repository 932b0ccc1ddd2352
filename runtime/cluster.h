// Who serves what: every process tells it on a heartbeat topic, and hears it from all.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bus/bus.h"
#include "core/result.h"
#include "runtime/role.h"

namespace leat::runtime {

inline constexpr std::string_view kHeartbeatsTopic = "leat.heartbeats";
// How often a process tells; at once, too, when what it serves changes.
inline constexpr auto kHeartbeatInterval = std::chrono::milliseconds(500);
// Who was not heard of for so long is gone.
inline constexpr auto kHeartbeatMax = std::chrono::milliseconds(3000);

// One partition of a role in one process.
struct PartStanding {
  std::string role;
  uint32_t partition = 0;
  PartState state = PartState::kResting;
  Standing standing;
};

struct InstanceStanding {
  std::string instance;
  std::string address;  // of its HTTP server; empty: it has none
  int64_t seen_us = 0;  // when it told so, by its clock
  std::vector<PartStanding> parts;
};

// Thread-safe. The transport must outlive it.
class Cluster {
 public:
  struct Self {
    std::string instance;
    // What this process serves, now; called on a thread of the cluster's.
    std::function<std::vector<PartStanding>()> parts;
  };
  // Creates the topic if need be, and listens; returns when it has heard what was told so far.
  static Result<std::unique_ptr<Cluster>> Open(bus::Transport* transport);
  // Tells that this process leaves, if it ever told that it was there.
  ~Cluster();

  // Tells of this process from now on. Once.
  void Announce(Self self);

  void SetAddress(const std::string& address);
  // All that were heard of lately, by name.
  std::vector<InstanceStanding> Instances() const;
  // Of the process that owns a partition of a role, as it last told.
  std::optional<PartStanding> Owner(std::string_view role, uint32_t partition) const;
  // Waits until `reached`, which is asked anew whenever something was heard; false at the deadline.
  bool WaitUntil(const std::function<bool()>& reached, std::chrono::milliseconds timeout) const;

 private:
  struct Known {
    InstanceStanding standing;
    std::chrono::steady_clock::time_point heard;
  };
  explicit Cluster(bus::Transport* transport) : transport_(transport) {}
  Status Listen(const std::stop_token& stop, uint64_t* next, uint64_t live_from);
  void Hear(const events::EventView& event, bool live);
  void Tell(const std::stop_token& stop);
  Status TellOnce(const std::vector<PartStanding>& parts, bool leaves) const;

  bus::Transport* const transport_;
  Self self_;
  mutable std::mutex mutex_;
  mutable std::condition_variable heard_;
  uint64_t heard_to_ = 0;                              // guarded by mutex_; offset
  std::string address_;                                // guarded by mutex_
  std::map<std::string, Known, std::less<>> known_;    // guarded by mutex_
  std::jthread listener_;
  std::jthread teller_;
};

}  // namespace leat::runtime
