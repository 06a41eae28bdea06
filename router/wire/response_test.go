package wire

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"testing"
)

func TestParseResponse(t *testing.T) {
	for name, tt := range map[string]struct {
		method, raw string
		status      int
		framing     Framing
		length      int64
		keep        bool
	}{
		"length":          {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Length, 5, true},
		"zero":            {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Length, 0, true},
		"chunked":         {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, Chunked, -1, true},
		"until close":     {"GET", "HTTP/1.1 200 OK\r\n\r\n", 200, Close, -1, true},
		"1.0":             {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", 200, Length, 1, false},
		"head":            {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, NoBody, 5, true},
		"no content":      {"GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, NoBody, -1, true},
		"not modified":    {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, NoBody, 9, true},
		"early hints":     {"GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 103, NoBody, -1, true},
		"switching":       {"GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, NoBody, -1, true},
		"no reason":       {"GET", "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n", 200, Length, 1, true},
		"close requested": {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", 200, Length, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			var h ResponseHead
			if err := ParseResponse([]byte(tt.raw), &DefaultLimits, tt.method, &h); err != nil {
				t.Fatal(err)
			}
			if h.Status != tt.status || h.Framing != tt.framing || h.Length != tt.length || h.KeepAlive != tt.keep {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestParseResponseRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"CL and TE":    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
		"two lengths":  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
		"TE in 1.0":    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"other TE":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"version":      "HTTP/2 200 OK\r\n\r\n",
		"garbage":      "SSH-2.0-x\r\n\r\n",
		"status":       "HTTP/1.1 20 OK\r\n\r\n",
		"status sign":  "HTTP/1.1 +20 OK\r\n\r\n",
		"status 099":   "HTTP/1.1 099 OK\r\n\r\n",
		"reason":       "HTTP/1.1 200 O\x00K\r\n\r\n",
		"folding":      "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
		"blank colon":  "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
		"control char": "HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var h ResponseHead
			if err := ParseResponse([]byte(raw), &DefaultLimits, "GET", &h); err == nil {
				t.Errorf("accepted: %+v", h)
			}
		})
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "GET")
	f.Add([]byte("HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n"), "HEAD")
	f.Add([]byte("HTTP/1.0 200\r\nConnection: keep-alive\r\nA:b\r\n\r\n"), "POST")
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		var s HeadScanner
		n, err := s.Scan(raw, &DefaultLimits)
		var h ResponseHead
		if err != nil || n == 0 || ParseResponse(raw[:n], &DefaultLimits, method, &h) != nil {
			return
		}
		for _, fl := range h.Fields {
			if !ValidName(fl.Name) || !ValidValue(fl.Value) {
				t.Errorf("field %q: %q passed", fl.Name, fl.Value)
			}
		}
		sameResponse(t, raw[:n], method, &h)
	})
}

// sameResponse: where net/http takes the head too, it reads the same status and
// the same extent of the body.
func sameResponse(t *testing.T, raw []byte, method string, h *ResponseHead) {
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
	if err != nil {
		return // it refuses more, such as names of methods
	}
	defer r.Body.Close()
	chunked := slices.Contains(r.TransferEncoding, "chunked")
	if r.StatusCode != h.Status || h.Framing == Length && (chunked || r.ContentLength != h.Length) || h.Framing == Chunked && !chunked ||
		h.Framing == Close && (chunked || r.ContentLength != -1) {
		t.Fatalf("another parser reads it differently: %+v, chunked %t, length %d\n%q", h, chunked, r.ContentLength, raw)
	}
}
