package conformance

import (
	"context"
	"encoding/base64"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/testcert"
)

// grpcCases are the cases of gRPC's interoperability tests that need neither an
// account nor gRPC's own load balancing.
var grpcCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
	"special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service",
}

// grpcRounds is how often every case runs: some mistakes are a matter of luck.
var grpcRounds = flag.Int("grpc.rounds", 2, "how often to run each of gRPC's cases")

// TestGRPC: gRPC's own client talks to gRPC's own server, and must not notice
// who is in between: with TLS on both sides, on either, on none.
func TestGRPC(t *testing.T) {
	for name, tc := range map[string]struct{ front, back bool }{
		"h2c to h2c": {false, false}, "TLS to h2c": {true, false}, "h2c to TLS": {false, true}, "TLS to TLS": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := serve(t, grpcManifests(t, tc.back))
			args := []string{"-server_host", "localhost", "-server_port", port(e.http)}
			if tc.front {
				args = []string{"-server_host", "localhost", "-server_port", port(e.https), "-use_tls", "-use_test_ca", "-ca_file", filepath.Join(e.ca, "ca", "local.crt")}
			}
			for range *grpcRounds {
				for _, c := range grpcCases {
					out, err := exec.CommandContext(t.Context(), judge(t, "client"), append(args, "-test_case", c)...).CombinedOutput()
					if err != nil {
						t.Errorf("%s: %v\n%s", c, err, out)
					}
				}
			}
		})
	}
}

// grpcManifests are a host at gRPC's server, which is verified if it speaks TLS.
func grpcManifests(t *testing.T, secure bool) string {
	if !secure {
		return manifests("localhost", grpcServer(t), "grpc")
	}
	ca := testcert.New(t)
	cert, key := ca.Leaf("judged.default.svc")
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, content := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := grpcServer(t, "-use_tls", "-tls_cert_file", certFile, "-tls_key_file", keyFile)
	text := strings.Replace(manifests("localhost", addr, "grpcs"), "annotations: {", "annotations: {portico.dev/proxy-ssl-secret: judged-ca, portico.dev/proxy-ssl-verify: \"on\", ", 1)
	return text + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: judged-ca}\ndata: {ca.crt: " +
		base64.StdEncoding.EncodeToString(testcert.PEM(ca.Cert)) + "}\n"
}

// grpcServer runs gRPC's server until the test ends.
func grpcServer(t *testing.T, args ...string) net.Addr {
	t.Helper()
	addr := freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, judge(t, "server"), append(args, "-port", port(addr))...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() { cancel(); <-ended })
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		if nc, err := net.Dial("tcp", addr); err == nil {
			nc.Close()
			return nc.RemoteAddr()
		}
		select {
		case <-retry.C:
		case <-ended:
			t.Fatal("gRPC's server ended")
		}
	}
}
