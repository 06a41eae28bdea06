package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func start(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// TestArguments: who asks for help gets words, not servers.
func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"0"}, {"65533"}, {"9201", "9202"}} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), "takes no arguments but one") {
			t.Errorf("%q: %v", args, err)
		}
	}
	for want, args := range map[int][]string{9201: nil, 65532: {"65532"}} {
		if got, err := firstPort(args); got != want || err != nil {
			t.Errorf("%q: %d, %v", args, got, err)
		}
	}
}

func TestPages(t *testing.T) {
	shop, live := start(t, newShop("shop-9")), start(t, newLive("live-9"))
	for url, want := range map[string]string{
		shop.URL + "/":          "<h1>The Portico Shop</h1>",
		shop.URL + "/any?a=<b>": "/any?a=&lt;b&gt;",
		live.URL + "/live/":     "<h1>Live through Portico</h1>",
	} {
		res, body := get(t, url)
		if res.StatusCode != http.StatusOK || !strings.Contains(body, want) || !strings.Contains(body, "-9</td>") {
			t.Errorf("%s: %s lacks %q:\n%s", url, res.Status, want, body)
		}
	}
	if res, _ := get(t, live.URL+"/live/clock"); res.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("a WebSocket without upgrade: %s", res.Status)
	}
}

func TestEcho(t *testing.T) {
	s := start(t, newEcho("api-9"))
	res, err := http.Post(s.URL+"/api/orders?x=1", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var got echo
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Backend != "api-9" || got.Method != "POST" || got.URI != "/api/orders?x=1" || got.Body != "hello" {
		t.Errorf("got %+v", got)
	}
}

func TestEvents(t *testing.T) {
	s := start(t, newLive("live-9"))
	res, err := http.Get(s.URL + "/live/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "data: ") || !strings.HasSuffix(line, " from live-9\n") {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestWebSocket speaks RFC 6455 by hand; the key and its answer are the
// example of §1.3.
func TestWebSocket(t *testing.T) {
	s := start(t, newLive("live-9"))
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /live/clock HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("handshake: %+v, %v", res, err)
	}
	if got := message(t, in); !strings.HasSuffix(got, " from live-9") {
		t.Errorf("got %q", got)
	}
	// "Hello", masked, as in §5.7; then a close frame.
	if _, err := conn.Write([]byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}); err != nil {
		t.Fatal(err)
	}
	for got := message(t, in); got != "you said: Hello"; got = message(t, in) {
		if !strings.HasSuffix(got, " from live-9") {
			t.Fatalf("got %q", got)
		}
	}
	if _, err := conn.Write([]byte{0x88, 0x80, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(in); err != nil {
		t.Errorf("after the close: %v", err)
	}
}

// message reads one unmasked text frame.
func message(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil || head[0] != 0x81 {
		t.Fatalf("frame %x: %v", head, err)
	}
	text := make([]byte, head[1])
	if _, err := io.ReadFull(in, text); err != nil {
		t.Fatal(err)
	}
	return string(text)
}
