// Who is heard of by whom.
#include <doctest/doctest.h>

#include <algorithm>

#include "bus/embedded/embedded_transport.h"
#include "runtime/cluster.h"
#include "tests/support/forwarding_transport.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using test::Must;

constexpr auto kLong = std::chrono::seconds(30);

// A topic whose beginning is gone.
class Shortened final : public test::ForwardingTransport {
 public:
  Shortened(bus::Transport* inner, uint64_t begin) : ForwardingTransport(inner), begin_(begin) {}
  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    LEAT_ASSIGN(auto inner, inner_->Subscribe(topic, partition, offset));
    return std::make_unique<Reader>(std::move(inner), offset, begin_);
  }

 private:
  class Reader final : public bus::Subscription {
   public:
    Reader(std::unique_ptr<bus::Subscription> inner, uint64_t offset, uint64_t begin)
        : inner_(std::move(inner)), offset_(offset), begin_(begin) {}
    Status Poll(const bus::PollLimits& limits, bus::MessageBatch* batch) override {
      if (offset_ < begin_) return Fail(ErrorClass::kNotFound, "the offset is gone");
      return inner_->Poll(limits, batch);
    }
    void Seek(uint64_t offset) override {
      offset_ = offset;
      inner_->Seek(offset);
    }
    void Wake() override { inner_->Wake(); }

   private:
    const std::unique_ptr<bus::Subscription> inner_;
    uint64_t offset_;
    const uint64_t begin_;
  };
  const uint64_t begin_;
};

bool Knows(const Cluster& cluster, const std::string& instance) {
  const auto all = cluster.Instances();
  return std::any_of(all.begin(), all.end(),
                     [&](const auto& one) { return one.instance == instance; });
}

TEST_CASE("old heartbeats that are gone are not missed") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  const auto first = Must(Cluster::Open(transport.get()));
  first->Announce({"first", [] { return std::vector<PartStanding>(); }});
  REQUIRE(first->WaitUntil([&] { return Knows(*first, "first"); }, kLong));
  Shortened shortened(transport.get(), Must(transport->End(kHeartbeatsTopic, 0)).offset);
  const auto second = Must(Cluster::Open(&shortened));
  CHECK(second->WaitUntil([&] { return Knows(*second, "first"); }, kLong));
}

}  // namespace
}  // namespace leat::runtime
