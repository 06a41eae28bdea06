package h2

import "time"

// budget bounds what costs us more than the peer: size at once, and as many in
// every span. Real work earns it back sooner.
type budget struct {
	size int
	per  time.Duration

	spent int
	since int64 // until when what was spent has been given back
}

// spend takes one, and reports whether there was one left.
func (b *budget) spend(now int64) bool {
	each := int64(b.per) / int64(b.size)
	if back := (now - b.since) / each; back > 0 {
		b.since += back * each
		b.spent = max(0, b.spent-int(min(back, int64(b.size))))
	}
	b.spent++
	return b.spent <= b.size
}

func (b *budget) earn(n int) { b.spent = max(0, b.spent-n) }
