package proxy

import (
	"net"
	"os"
	"testing"
	"time"
)

// taker is a client that takes some bytes of the first write and then as many of every
// write that comes after its deadline.
type taker struct {
	net.Conn
	first, then int
	writes      int
}

func (c *taker) SetWriteDeadline(time.Time) error { return nil }

func (c *taker) Write(p []byte) (int, error) {
	n := 0
	switch c.writes++; {
	case c.writes == 1:
		n = c.first
	case c.writes%2 == 0: // after a wait
		n = c.then
	}
	if n >= len(p) {
		return len(p), nil
	}
	return n, os.ErrDeadlineExceeded
}

// TestSlowTakers: a client must take what is written to it, not only some of it.
func TestSlowTakers(t *testing.T) {
	for name, tt := range map[string]struct {
		first, then int
		ok          bool
	}{
		"takes all":             {1 << 20, 0, true},
		"takes nothing":         {0, 0, false},
		"fills its buffer only": {30_000, 0, false},
		"takes a few bytes":     {30_000, 500, false},
		"is slow":               {30_000, 15_000, true},
	} {
		err := sendAll(&taker{first: tt.first, then: tt.then}, make([]byte, 64<<10), time.Minute, &stallLimit{}, false)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
