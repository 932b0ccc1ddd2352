// The service around the projection: what moves its partition does not wait for what it does.
#include "consumers/balances/service.h"

#include <atomic>
#include <future>

#include "bus/embedded/embedded_transport.h"
#include "tests/support/forwarding_transport.h"
#include "tests/support/test_support.h"

namespace leat::balances {
namespace {

using test::Must;

constexpr auto kPatience = std::chrono::seconds(60);

// From a certain moment on, who subscribes gets nothing.
class Silent final : public test::ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  std::atomic<bool> silent{false};

  Result<std::unique_ptr<bus::Subscription>> Subscribe(std::string_view topic, uint32_t partition,
                                                       uint64_t offset) override {
    constexpr uint64_t kFar = 1'000'000;  // behind the end: it is waited for
    return inner_->Subscribe(topic, partition, silent ? kFar : offset);
  }
};

TEST_CASE("a rebuild is given up when its partition goes to another process") {
  const test::TempFolder temp;
  const auto embedded = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  Must(embedded->CreateTopic("ledger.entries", 1));
  Must(embedded->Publish("ledger.entries", {test::DataEvent("of a type that nobody knows")}));
  Silent transport(embedded.get());
  const auto service = Must(Service::Open({temp.Sub("balances"), "ledger.entries"}, &transport));
  Must(service->Own({}));
  REQUIRE(service->WaitApplied(1, kPatience));

  transport.silent = true;
  std::promise<void> begun;
  std::atomic<bool> told{false};
  auto rebuilt = std::async(std::launch::async, [&] {
    return service->Rebuild(true, [&](uint64_t, uint64_t) {
      if (!told.exchange(true)) begun.set_value();
    });
  });
  REQUIRE(begun.get_future().wait_for(kPatience) == std::future_status::ready);
  service->Rest();
  const auto report = rebuilt.get();
  CHECK(test::ClassOf(report) == ErrorClass::kUnavailable);

  // It can be taken up again, and rebuilt.
  transport.silent = false;
  Must(service->Own({}));
  CHECK(Must(service->Rebuild(true, nullptr)).identical);
}

}  // namespace
}  // namespace leat::balances
