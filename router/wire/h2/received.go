package h2

// Received is a body as it arrives, until it is read. The zero value is empty.
// Whoever passes to Consume what was read, and nothing else, bounds it by the
// stream's window.
type Received struct {
	buf []byte
	off int // buf[off:] is not read yet
}

// Put appends p. What was read makes room before the buffer grows: a reader that
// never quite catches up must not make it larger than the window.
func (r *Received) Put(p []byte) {
	if r.off > 0 && len(r.buf)+len(p) > cap(r.buf) {
		r.buf, r.off = r.buf[:copy(r.buf, r.buf[r.off:])], 0
	}
	r.buf = append(r.buf, p...)
}

// Take moves what is there to p, as far as it fits.
func (r *Received) Take(p []byte) int {
	n := copy(p, r.buf[r.off:])
	if r.off += n; r.off == len(r.buf) {
		r.buf, r.off = r.buf[:0], 0
	}
	return n
}

// Len returns how many bytes wait to be read.
func (r *Received) Len() int { return len(r.buf) - r.off }

// Drop frees the buffer, and returns how many bytes nobody has read.
func (r *Received) Drop() int {
	n := r.Len()
	*r = Received{}
	return n
}
