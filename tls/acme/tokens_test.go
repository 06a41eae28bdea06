package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
)

func challenge(kind, host, token string) (key string, value []byte) {
	text, _ := json.Marshal(acmelib.Challenge{Type: kind, Token: token, KeyAuthorization: token + ".thumb",
		Identifier: acmelib.Identifier{Type: "dns", Value: host}})
	return "issuers/x/acme/ca/" + challengeFolder + "/" + host + token + ".json", text
}

// TestTokens: exactly this token for exactly this host is answered, at once and
// nothing else.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := NewTokens(nil)
		key, value := challenge(acmelib.ChallengeTypeHTTP01, "A.example", "one")
		tokens.Set(key, value)
		tokens.Set("issuers/x/users/x.json", value)
		tokens.Set(key+"2", []byte("{"))
		asked := time.Now()
		for _, c := range []struct {
			host, token string
			known       bool
		}{{"a.example", "one", true}, {"b.example", "one", false}, {"a.example", "On", false}, {"a.example", "", false}, {"", "one", false}} {
			answer, ok := tokens.Respond(t.Context(), c.host, c.token)
			if ok != c.known || ok && answer != "one.thumb" {
				t.Errorf("%s %s: %q %v", c.host, c.token, answer, ok)
			}
		}
		if tokens.Certificate(t.Context(), "a.example") != nil {
			t.Error("an HTTP challenge is answered by TLS")
		}
		tokens.Delete(key)
		if _, ok := tokens.Respond(t.Context(), "a.example", "one"); ok {
			t.Error("a token that is gone is answered")
		}
		if waited := time.Since(asked); waited != 0 {
			t.Errorf("unknown tokens waited %v", waited)
		}
	})
}

// TestTokensWait: where an order for the host is in flight, a request waits for
// its token, as long as there is room and time.
func TestTokensWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := NewTokens(nil)
		tokens.Flight(&Record{ID: "r", Names: []string{"a.example"}, Order: &Order{Since: time.Now()}})
		var group sync.WaitGroup
		group.Go(func() {
			if _, ok := tokens.Respond(t.Context(), "a.example", "one"); !ok {
				t.Error("the token came and was not answered")
			}
		})
		synctest.Wait()
		tokens.Set(challenge(acmelib.ChallengeTypeHTTP01, "a.example", "other"))
		time.Sleep(time.Second)
		tokens.Set(challenge(acmelib.ChallengeTypeHTTP01, "a.example", "one"))
		group.Wait()

		asked := time.Now()
		if _, ok := tokens.Respond(t.Context(), "a.example", "two"); ok || time.Since(asked) != tokenWait {
			t.Errorf("a token that never comes: %v after %v", ok, time.Since(asked))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		asked = time.Now()
		for _, c := range []struct {
			ctx  context.Context
			host string
		}{{gone, "a.example"}, {t.Context(), "b.example"}} {
			if _, ok := tokens.Respond(c.ctx, c.host, "two"); ok || time.Since(asked) != 0 {
				t.Errorf("%s waited %v", c.host, time.Since(asked))
			}
		}
		for range maxWaiters {
			group.Go(func() { tokens.Respond(t.Context(), "a.example", "two") })
		}
		synctest.Wait()
		if tokens.Respond(t.Context(), "a.example", "two"); time.Since(asked) != 0 {
			t.Errorf("one too many waited %v", time.Since(asked))
		}
		group.Wait()
		tokens.Flight(&Record{ID: "r", Names: []string{"a.example"}})
		asked = time.Now()
		if tokens.Respond(t.Context(), "a.example", "two"); time.Since(asked) != 0 {
			t.Error("the order has landed, and a request waits")
		}
		tokens.Flight(&Record{ID: "r", Names: []string{"a.example"}, Order: &Order{Since: time.Now().Add(-orderAge)}})
		if tokens.Respond(t.Context(), "a.example", "two"); time.Since(asked) != 0 {
			t.Error("the order was forgotten long ago, and a request waits")
		}
		tokens.Land("r")
	})
}

// TestTwoWhoOrder: of two processes that order certificates for a host at once,
// neither takes the other's token away, whichever comes or ends first.
func TestTwoWhoOrder(t *testing.T) {
	files := newFiles(t, t.TempDir())
	tokens := files.tokens
	var both [2]*issuerStorage
	for n := range both {
		both[n] = &issuerStorage{Storage: files, prefix: "issuers/x"}
		_, value := challenge(acmelib.ChallengeTypeHTTP01, "a.example", fmt.Sprint("token", n))
		if err := both[n].Store(t.Context(), "acme/ca/challenge_tokens/a.example.json", value); err != nil {
			t.Fatal(err)
		}
	}
	for _, ended := range []int{-1, 0, 1} {
		if ended >= 0 {
			if err := both[ended].Delete(t.Context(), "acme/ca/challenge_tokens/a.example.json"); err != nil {
				t.Error(err)
			}
		}
		for n := range both {
			if _, ok := tokens.Respond(t.Context(), "a.example", fmt.Sprint("token", n)); ok != (n > ended) {
				t.Errorf("%d has ended, and the token of %d is answered: %v", ended, n, ok)
			}
		}
	}
	if keys, err := files.List(t.Context(), "issuers", true); err != nil || countTokens(keys) != 0 {
		t.Errorf("what is left: %v, %v", keys, err)
	}
}

// TestALPN: only clients that offer acme-tls/1 alone are answered, and only for
// a name whose challenge is open.
func TestALPN(t *testing.T) {
	tokens := NewTokens(nil)
	tokens.Set(challenge(acmelib.ChallengeTypeTLSALPN01, "a.example", "one"))
	for _, c := range []struct {
		name     string
		protos   []string
		answered bool
	}{{"a.example", []string{"acme-tls/1"}, true}, {"A.Example", []string{"acme-tls/1"}, true}, {"b.example", []string{"acme-tls/1"}, false},
		{"", []string{"acme-tls/1"}, false}, {"a.example", []string{"acme-tls/1", "h2"}, false}, {"a.example", nil, false}} {
		client, server := net.Pipe()
		var group sync.WaitGroup
		group.Go(func() {
			defer server.Close()
			_ = tls.Server(server, &tls.Config{GetConfigForClient: tokens.ServerConfig}).HandshakeContext(t.Context())
		})
		conn := tls.Client(client, &tls.Config{ServerName: c.name, NextProtos: c.protos, InsecureSkipVerify: true})
		err := conn.HandshakeContext(t.Context())
		if (err == nil) != c.answered {
			t.Errorf("%s %v: %v", c.name, c.protos, err)
		}
		if err == nil {
			if leaf := conn.ConnectionState().PeerCertificates[0]; fmt.Sprint(leaf.DNSNames) != "[a.example]" {
				t.Errorf("a certificate for %v", leaf.DNSNames)
			}
		}
		client.Close()
		group.Wait()
	}
}
