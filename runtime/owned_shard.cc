#include "runtime/owned_shard.h"

#include <filesystem>

#include "core/log.h"

namespace leat::runtime {
namespace {

// Who reads a shard that is to be put aside has so long to end: most hold it for a moment. A
// verification takes longer, and then it is tried again.
constexpr auto kReadersMax = std::chrono::seconds(1);
constexpr auto kReadersPause = std::chrono::milliseconds(5);

}  // namespace

Result<std::unique_ptr<OwnedShard>> OwnedShard::Open(const OwnedShardOptions& options,
                                                     Evolver* evolver, bus::Transport* transport) {
  std::unique_ptr<OwnedShard> owned(new OwnedShard(options, evolver, transport));
  LEAT_TRY(owned->OpenShard());
  return owned;
}

OwnedShard::~OwnedShard() { Rest(); }

Status OwnedShard::OpenShard() {
  LEAT_ASSIGN(auto opened, Shard::Open(options_.shard));
  std::lock_guard lock(mutex_);
  shard_ = std::move(opened);
  return {};
}

std::shared_ptr<Shard> OwnedShard::shard() const {
  std::lock_guard lock(mutex_);
  return shard_;
}

std::shared_ptr<Relay> OwnedShard::relay() const {
  std::lock_guard lock(mutex_);
  return relay_;
}

Status OwnedShard::PutAside(const std::stop_token& stop) {
  std::shared_ptr<Shard> shard;
  {
    std::lock_guard lock(mutex_);
    shard = std::move(shard_);
  }
  const auto deadline = std::chrono::steady_clock::now() + kReadersMax;
  while (shard.use_count() > 1) {
    if (stop.stop_requested() || std::chrono::steady_clock::now() > deadline) {
      std::lock_guard lock(mutex_);
      shard_ = std::move(shard);
      return Fail(ErrorClass::kUnavailable,
                  options_.shard.name + " is being read, and is to be built anew from " +
                      options_.topic,
                  "it is tried again; a verification may be what reads it");
    }
    std::this_thread::sleep_for(kReadersPause);
  }
  shard.reset();
  const std::string aside = options_.shard.path + ".aside";
  std::error_code error;
  std::filesystem::remove_all(aside, error);
  std::filesystem::rename(options_.shard.path, aside, error);
  if (error) {
    return Fail(ErrorClass::kInternal, options_.shard.path + ": " + error.message(),
                "move the folder away, it is rebuilt from the topic");
  }
  core::LogWarning(options_.shard.name, "built anew from " + options_.topic +
                                            "; what was there before is kept in " + aside);
  return OpenShard();
}

Status OwnedShard::Own(const std::stop_token& stop) {
  Rest();
  if (options_.mounted) return {};
  if (shard() == nullptr) LEAT_TRY(OpenShard());  // putting it aside failed
  std::optional<Ownership> ownership;
  for (int attempt = 0; attempt < 2 && !ownership; ++attempt) {
    if (attempt > 0) LEAT_TRY(PutAside(stop));
    LEAT_ASSIGN(ownership, ClaimTopic(stop, shard().get(), evolver_, transport_, options_.topic,
                                      options_.partition, options_.input, nullptr));
  }
  LEAT_ASSERT(ownership.has_value());  // an empty log does not differ
  auto relay = std::make_shared<Relay>(shard().get(), transport_, options_.topic,
                                       options_.partition, *ownership);
  LEAT_TRY(relay->Start());
  std::lock_guard lock(mutex_);
  relay_ = std::move(relay);
  epoch_ = ownership->epoch;
  return {};
}

Status OwnedShard::Follow() {
  Rest();
  if (options_.mounted) return {};
  if (shard() == nullptr) LEAT_TRY(OpenShard());
  auto status = std::make_shared<RunnerStatus>();
  {
    std::lock_guard lock(mutex_);
    follower_status_ = status;
  }
  follower_ = std::jthread([this, status](const std::stop_token& stop) {
    const auto follow = [&]() -> Status {
      for (;;) {
        LEAT_ASSIGN(const bool stopped,
                    FollowTopic(stop, shard().get(), evolver_, transport_, options_.topic,
                                options_.partition, options_.input, status.get()));
        if (stopped) return {};
        LEAT_TRY(PutAside(stop));
      }
    };
    auto ended = follow();
    if (!ended && !stop.stop_requested()) {
      core::LogError(options_.shard.name, "stopped following: " + ended.error().Text());
      status->Stop(std::move(ended));
    }
  });
  return {};
}

void OwnedShard::Rest() {
  if (follower_.joinable()) {
    follower_.request_stop();
    follower_.join();
    follower_ = {};
  }
  std::shared_ptr<Relay> relay;
  {
    std::lock_guard lock(mutex_);
    follower_status_.reset();
    relay = std::move(relay_);
    epoch_ = 0;
  }
  if (relay != nullptr) relay->Stop();  // whoever waits on it may hold it for longer
}

bool OwnedShard::WaitPublished(uint64_t size, std::chrono::milliseconds timeout) const {
  if (options_.mounted) return true;
  const auto now = relay();
  return now != nullptr && now->status().WaitApplied(size, timeout);
}

bool OwnedShard::WaitPublishedIn(uint64_t in_epoch, uint64_t size,
                                 std::chrono::milliseconds timeout) const {
  if (options_.mounted) return true;
  std::shared_ptr<Relay> now;
  {
    std::lock_guard lock(mutex_);
    if (epoch_ == in_epoch) now = relay_;
  }
  return now != nullptr && now->status().WaitApplied(size, timeout);
}

uint64_t OwnedShard::published_end() const {
  const auto now = relay();
  return now == nullptr ? 0 : now->read_to();
}

uint64_t OwnedShard::epoch() const {
  std::lock_guard lock(mutex_);
  return epoch_;
}

uint64_t OwnedShard::published() const {
  std::lock_guard lock(mutex_);
  if (relay_ != nullptr) return relay_->status().applied();
  if (follower_status_ != nullptr) return follower_status_->applied();
  return options_.mounted && shard_ != nullptr ? shard_->log()->size() : 0;
}

Status OwnedShard::error() const {
  std::lock_guard lock(mutex_);
  if (shard_ != nullptr) LEAT_TRY(shard_->error());
  if (relay_ != nullptr) LEAT_TRY(relay_->status().error());
  if (follower_status_ != nullptr) LEAT_TRY(follower_status_->error());
  return {};
}

}  // namespace leat::runtime
