// The ledger on a transport: a process that is killed between any two events that it publishes, and one that stands still at
// any step while another one takes over.
#pragma once

#include "tests/conformance/case.h"

namespace leat::conformance {

// At every publish boundary, in mid-decision and in the middle of a block in parts, too. Its shard's folder is deleted and rebuilt
// from its topic, or a warm copy takes over.
void KilledAtEveryBoundary(Case& c);
// A step is the moment before a publish, the one after it, and the one after something was read.
void OwnerFrozenAtEveryStep(Case& c);

}  // namespace leat::conformance
