package proxy

import (
	"testing"

	"github.com/portico-ingress/portico/router/wire/h2"
)

// TestH2BodyBuffer: a reader that is always one byte behind must not make the
// buffer grow with the body.
func TestH2BodyBuffer(t *testing.T) {
	c, st := &h2Conn{}, &h2.Stream{}
	s := &h2Stream{c: c, st: st, readable: newBell()}
	st.Owner = s
	part := make([]byte, 1000)
	c.Data(st, part[:1])
	for i := range 10_000 {
		part[len(part)-1] = byte(i)
		c.Data(st, part)
		s.off += len(part)
		if left := s.body[s.off:]; len(left) != 1 || left[0] != byte(i) {
			t.Fatalf("after %d parts %v is unread", i, left)
		}
	}
	if cap(s.body) > 8*len(part) {
		t.Errorf("the buffer has grown to %d bytes", cap(s.body))
	}
}
