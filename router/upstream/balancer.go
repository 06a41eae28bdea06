package upstream

// Balancer chooses where the next request of one pool goes. A pool has its own
// Balancer, which outlives changes of its endpoints. Pick is called from many
// goroutines at once and must not allocate.
type Balancer interface {
	// Pick returns an index into targets, which is never empty and must be
	// neither written nor kept.
	Pick(targets []*Target) int
}
