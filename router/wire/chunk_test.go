package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/view"
)

// dechunk reads raw in pieces of the given size and returns the data, the
// bytes used, and whether the body ended.
func dechunk(raw []byte, piece int) (data []byte, used int, c *Chunks, err error) {
	c = &Chunks{Limits: &DefaultLimits}
	for used < len(raw) && !c.Done() {
		end := min(used+piece, len(raw))
		d, n, err := c.Scan(raw[used:end])
		data = append(data, d...)
		used += n
		if err != nil {
			return data, used, c, err
		}
	}
	return data, used, c, nil
}

func TestChunks(t *testing.T) {
	raw := "5\r\nhello\r\n00a;x=\"y z\"\r\n, world!!!\r\n0;e\r\nGrpc-Status: 0\r\nContent-Length: 7\r\nx_y: 1\r\n\r\nGET /next"
	for _, piece := range []int{1, 3, 1000} {
		data, used, c, err := dechunk([]byte(raw), piece)
		if err != nil || !c.Done() {
			t.Fatalf("piece %d: done %v, error %v", piece, c.Done(), err)
		}
		if string(data) != "hello, world!!!" || raw[used:] != "GET /next" {
			t.Errorf("piece %d: data %q, rest %q", piece, data, raw[used:])
		}
		if got := c.Trailers(); len(got) != 1 || got[0].Name != "Grpc-Status" {
			t.Errorf("piece %d: trailers %v", piece, got)
		}
	}
}

func TestChunksRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"0x":                 "0x5\r\nhello\r\n",
		"sign":               "+5\r\nhello\r\n",
		"empty size":         "\r\nhello\r\n",
		"leading blank":      " 5\r\nhello\r\n",
		"trailing blank":     "5 \r\nhello\r\n",
		"blank before ext":   "5 ;a\r\nhello\r\n",
		"bare LF size":       "5\nhello\r\n",
		"bare LF data":       "5\r\nhello\n",
		"bare CR size":       "5\rhello\r\n",
		"LF in extension":    "5;a\nb\r\nhello\r\n",
		"CR in extension":    "5;a\rb\r\nhello\r\n",
		"NUL in extension":   "5;\x00\r\nhello\r\n",
		"data too long":      "4\r\nhello\r\n",
		"sixteen digits":     "0000000000000005\r\nhello\r\n",
		"overflow":           "ffffffffffffffff\r\nhello\r\n",
		"long extension":     "5;" + strings.Repeat("a", 17<<10) + "\r\nhello\r\n",
		"many extensions":    strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 20),
		"bare LF trailer":    "0\r\nA: b\n\r\n",
		"bare LF end":        "0\r\n\n",
		"folded trailer":     "0\r\nA: b\r\n c\r\n\r\n",
		"blank colon":        "0\r\nA : b\r\n\r\n",
		"big trailer":        "0\r\nA: " + strings.Repeat("a", 17<<10) + "\r\n\r\n",
		"many trailers":      "0\r\n" + strings.Repeat("A: b\r\n", 100) + "\r\n",
		"control in trailer": "0\r\nA: \x01\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var e *Error
			if _, _, c, err := dechunk([]byte(raw), 7); !errors.As(err, &e) {
				t.Errorf("error %v, done %v", err, c.Done())
			}
		})
	}
}

func TestAppendChunkIsReadBack(t *testing.T) {
	out := AppendChunk(nil, []byte("hello"))
	out = AppendChunk(out, nil)
	out = AppendChunk(out, bytes.Repeat([]byte("x"), 300))
	out = AppendLastChunk(out, view.Fields{{Name: "A", Value: "b"}})
	data, used, c, err := dechunk(out, 11)
	if err != nil || used != len(out) || len(data) != 305 || c.Trailers().Get("a") != "b" {
		t.Errorf("read back %d bytes of %d, trailers %v, error %v", len(data), used, c.Trailers(), err)
	}
}

// FuzzChunks checks that splitting the input never changes the result, and
// that another reader agrees with what is accepted.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"))
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\nrest"))
	f.Add([]byte("1\r\na\r\n0\n\r\n"))
	f.Add([]byte("fffffffffffffff\r\nx"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, n, c, err := dechunk(raw, len(raw)+1)
		b, m, d, err2 := dechunk(raw, 1)
		if (err == nil) != (err2 == nil) || !bytes.Equal(a, b) || n != m || c.Done() != d.Done() {
			t.Fatalf("whole: %q %d %v; split: %q %d %v", a, n, err, b, m, err2)
		}
		if err != nil || !c.Done() {
			return
		}
		if theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw[:n]))); err == nil && !bytes.Equal(theirs, a) {
			t.Fatalf("another reader takes %q for the body, not %q", theirs, a)
		}
		out := AppendLastChunk(AppendChunk(nil, a), c.Trailers())
		again, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(out)))
		if err != nil || !bytes.Equal(again, a) {
			t.Fatalf("another reader: %q, %v", again, err)
		}
	})
}
