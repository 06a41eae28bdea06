package wire

import (
	"bytes"
	"strings"
	"testing"
)

// TestAllValue: every byte at every place, beside each of its kind.

// TestAllValue: every byte at every place, beside each of its kind.
func TestAllValue(t *testing.T) {
	for _, around := range []string{"a", "\xff", "\x80", "\t", " "} {
		for c := range 256 {
			for at := range 17 {
				b := bytes.Repeat([]byte(around), 17)
				b[at] = byte(c)
				if s := string(b); allValue(s) != all(s, isValue) {
					t.Errorf("%q: %t", s, allValue(s))
				}
			}
		}
	}
}

// BenchmarkParseRequest is a head as browsers send it.
func BenchmarkParseRequest(b *testing.B) {
	head := []byte("GET /catalogue/items?page=3 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n" +
		"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en\r\nCookie: " + strings.Repeat("session=0123456789abcdef; ", 8) + "\r\n\r\n")
	var h RequestHead
	b.SetBytes(int64(len(head)))
	b.ReportAllocs()
	for b.Loop() {
		if err := ParseRequest(head, &DefaultLimits, &h); err != nil {
			b.Fatal(err)
		}
	}
}
