// A role: a service with its partitions, of which this process works on those that are its own. Who
// owns which is agreed on by membership in a group, and settled by the claim on the partition
// (inbox.h): membership says who should, the claim says who does.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "bus/bus.h"
#include "core/result.h"

namespace leat::runtime {

// Where a partition of a role stands.
struct Standing {
  // Everything of the input before it is done with: what was decided from it is published and read back.
  uint64_t done = 0;
  // Offset behind that, in the topic it is published to; 0 where there is none.
  uint64_t published_end = 0;
  uint64_t epoch = 0;  // of the claim; 0: there is none
};

// One partition of a role in this process. Own, Follow and Rest are called by one thread at a time,
// the rest by any. It is at rest to begin with.
class Part {
 public:
  virtual ~Part() = default;
  // Takes it over and works on it; returns once it does. Gives up when `stop` is requested. Errors:
  // kUnavailable and kConflict may pass; any other will not.
  virtual Status Own(const std::stop_token& stop) = 0;
  // Keeps a warm copy, while another process owns it.
  virtual Status Follow() = 0;
  // Does neither; what it knows can still be read.
  virtual void Rest() = 0;
  virtual Standing standing() const = 0;
  // What stopped it since Own or Follow.
  virtual Status error() const = 0;
};

enum class PartState : uint8_t { kResting, kFollowing, kTaking, kOwned, kFailed };
std::string_view PartStateName(PartState state);

struct RoleOptions {
  std::string name;   // "ledger"
  std::string topic;  // its input, whose partitions are shared
  uint32_t partitions = 1;
  bool standby = false;  // follow what others own
};

// Owns its threads: one for the membership, one for each partition.
class Role {
 public:
  using OpenPart = std::function<Result<std::unique_ptr<Part>>(uint32_t partition)>;
  // Opens the parts.
  static Result<std::unique_ptr<Role>> Open(const RoleOptions& options, const OpenPart& open);
  ~Role();

  // Owns all partitions from now on, on the caller's thread: there is no other process.
  Status OwnAll();
  // Called when a partition begins to be owned, and before it ceases to be; what fails is an Own that failed.
  using OnOwned = std::function<Status(uint32_t partition, bool owned)>;
  // Shares them with all members of group "leat.<name>". `instance` names this process.
  void Join(bus::Transport* transport, const std::string& instance, OnOwned on_owned);
  void Stop();

  const RoleOptions& options() const { return options_; }
  Part* part(uint32_t partition) const { return hosts_[partition]->part.get(); }
  PartState state(uint32_t partition) const { return hosts_[partition]->state.load(); }
  // Whether this process owns and works on it.
  bool Owns(uint32_t partition) const { return state(partition) == PartState::kOwned; }
  // What stopped a part, or the membership, for good.
  Status error() const;

 private:
  enum class Target : uint8_t { kRest, kFollow, kOwn };
  // A part and the thread that moves it to what it should be.
  struct Host {
    uint32_t partition = 0;
    std::unique_ptr<Part> part;
    std::atomic<PartState> state{PartState::kResting};
    std::atomic<bool> settled{false};  // nothing of an earlier target is under way
    std::mutex mutex;
    std::condition_variable_any changed;
    Target target = Target::kRest;  // guarded by mutex
    std::stop_source attempt;       // guarded by mutex; of the Own under way
    Status failed;                  // guarded by mutex
    std::jthread thread;
  };

  explicit Role(RoleOptions options) : options_(std::move(options)) {}
  void RunHost(const std::stop_token& stop, Host* host);
  void Rest(Host* host);
  Status Move(const std::stop_token& stop, Host* host, Target target,
              const std::stop_token& attempt);
  void SetTarget(Host* host, Target target);
  void RunMembership(const std::stop_token& stop, bus::Transport* transport,
                     const std::string& instance);
  Target idle() const { return options_.standby ? Target::kFollow : Target::kRest; }

  const RoleOptions options_;
  std::atomic<bool> joined_{false};
  OnOwned on_owned_;
  std::vector<std::unique_ptr<Host>> hosts_;
  mutable std::mutex mutex_;
  Status failed_;  // guarded by mutex_; of the membership
  std::jthread membership_;
};

}  // namespace leat::runtime
