package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// playPart is one of the processes that are measured, or measured against.
func playPart(part, args string) {
	var err error
	switch part {
	case "backend":
		err = backend(args)
	case "reverseproxy":
		err = reverseProxy(strings.Split(args, ","))
	}
	log.Fatal(part, ": ", err)
}

// backend answers as cheaply as Go can: it finds the end of a head, skips a body
// of a known length, and writes what was made before.
func backend(port string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	for {
		nc, err := ln.Accept()
		if err != nil {
			return err
		}
		go answer(nc)
	}
}

const fields = "HTTP/1.1 200 OK\r\nServer: be\r\nDate: Mon, 23 Nov 2026 06:00:00 GMT\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-cache\r\n"

var (
	small = fmt.Appendf(nil, "%sContent-Length: 128\r\n\r\n%s", fields, strings.Repeat("x", 128))
	large = fmt.Appendf(nil, "%sContent-Length: 1048576\r\n\r\n%s", fields, strings.Repeat("x", 1<<20))
)

func answer(nc net.Conn) {
	defer nc.Close()
	buf := make([]byte, 64<<10)
	n := 0
	for {
		end := bytes.Index(buf[:n], []byte("\r\n\r\n"))
		if end < 0 {
			k, err := nc.Read(buf[n:])
			if err != nil {
				return
			}
			n += k
			continue
		}
		head := buf[:end+4]
		out := small
		if bytes.HasPrefix(head, []byte("GET /bytes/")) {
			out = large
		}
		left := length(head)
		have := min(left, n-len(head))
		n = copy(buf, buf[len(head)+have:n])
		for left -= have; left > 0; {
			k, err := nc.Read(buf[n:min(len(buf), n+left)])
			if err != nil {
				return
			}
			left -= k
		}
		if _, err := nc.Write(out); err != nil {
			return
		}
	}
}

func length(head []byte) int {
	for _, name := range []string{"\r\nContent-Length: ", "\r\ncontent-length: "} {
		if i := bytes.Index(head, []byte(name)); i >= 0 {
			rest := head[i+len(name):]
			n, _ := strconv.Atoi(string(rest[:bytes.IndexByte(rest, '\r')]))
			return n
		}
	}
	return 0
}

// reverseProxy is what comes with Go, with the tuning that everybody gives it.
func reverseProxy(args []string) error {
	to := &url.URL{Scheme: "http", Host: "127.0.0.1:" + args[2]}
	h := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.SetXForwarded(); r.Out.Host = r.In.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	quiet := log.New(io.Discard, "", 0)
	go func() {
		log.Fatal((&http.Server{Addr: "127.0.0.1:" + args[0], Handler: h, ErrorLog: quiet}).ListenAndServe())
	}()
	return (&http.Server{Addr: "127.0.0.1:" + args[1], Handler: h, ErrorLog: quiet}).ListenAndServeTLS(args[3]+".crt", args[3]+".key")
}

// writeCertificates makes a self-signed certificate of each kind.
func writeCertificates(dir string) error {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	for kind, key := range map[string]crypto.Signer{"ecdsa": ec, "rsa": rs} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), DNSNames: []string{"bench"}}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		crt := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
		for suffix, content := range map[string][]byte{".crt": crt, ".key": private, ".pem": append(crt[:len(crt):len(crt)], private...)} {
			if err := os.WriteFile(filepath.Join(dir, kind+suffix), content, 0o600); err != nil {
				return err
			}
		}
		if _, err := tls.X509KeyPair(crt, private); err != nil {
			return err
		}
	}
	return nil
}
