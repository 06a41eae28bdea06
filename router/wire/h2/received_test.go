package h2

import "testing"

// TestReceivedIsBounded: a reader that is always one byte behind must not make
// the buffer grow with the body.
func TestReceivedIsBounded(t *testing.T) {
	var r Received
	part, got := make([]byte, 1000), make([]byte, 1000)
	r.Put(part[:1])
	for i := range 10_000 {
		part[len(part)-1] = byte(i)
		r.Put(part)
		if n := r.Take(got); n != len(got) {
			t.Fatalf("%d bytes were there", n)
		}
		if left := r.buf[r.off:]; len(left) != 1 || r.Len() != 1 || left[0] != byte(i) {
			t.Fatalf("after %d parts %v is unread", i, left)
		}
	}
	if cap(r.buf) > 8*len(part) {
		t.Errorf("the buffer has grown to %d bytes", cap(r.buf))
	}
	if n := r.Drop(); n != 1 || r.Len() != 0 {
		t.Errorf("dropped %d, left %d", n, r.Len())
	}
}
