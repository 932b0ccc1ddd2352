// Who is heard of by whom.
#include <doctest/doctest.h>

#include <algorithm>

#include "bus/embedded/embedded_transport.h"
#include "runtime/cluster.h"
#include "tests/support/shortened_transport.h"
#include "tests/support/test_support.h"

namespace leat::runtime {
namespace {

using test::Must;

constexpr auto kLong = std::chrono::seconds(30);

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
  test::Shortened shortened(transport.get(), Must(transport->End(kHeartbeatsTopic, 0)).offset);
  const auto second = Must(Cluster::Open(&shortened));
  CHECK(second->WaitUntil([&] { return Knows(*second, "first"); }, kLong));
}

TEST_CASE("what is left of old heartbeats is heard") {
  test::TempFolder temp;
  const auto transport = Must(bus::EmbeddedTransport::Open(temp.Sub("bus")));
  const auto first = Must(Cluster::Open(transport.get()));
  first->Announce({"first", [] { return std::vector<PartStanding>(); }});
  const auto told = [&] { return Must(transport->End(kHeartbeatsTopic, 0)).offset; };
  REQUIRE(first->WaitUntil([&] { return told() > 1; }, kLong));
  // At once, and not when it is told again.
  test::Shortened shortened(transport.get(), told() - 1);
  CHECK(Knows(*Must(Cluster::Open(&shortened)), "first"));
}

}  // namespace
}  // namespace leat::runtime
