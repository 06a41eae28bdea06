//go:build e2e && linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portico-ingress/portico/controllers/prove/load"
)

// rounds is how often what must lose nothing is repeated; make full sets it to
// ten, and outage to two minutes.
func rounds() int { return number("PORTICO_E2E_ROUNDS", 3) }

func outage() time.Duration { return time.Duration(number("PORTICO_E2E_OUTAGE", 20)) * time.Second }

func number(variable string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return def
}

// TestEdge is one cluster, from the installation of the chart to its removal.
func TestEdge(t *testing.T) {
	e := setUp(t)
	if !t.Run("install", func(t *testing.T) { e.install(t); e.deploy(t, "shop", endsWell) }) {
		return
	}
	t.Run("curl", e.curl)
	t.Run("browser", e.browser)
	t.Run("problems are told", e.problems)
	t.Run("article's road", e.road)
	t.Run("probes decide", e.probes)
	t.Run("rolling update of the backend", e.backendRollouts)
	t.Run("scale", e.scale)
	t.Run("certificate rotation and Ingress changes", e.changes)
	t.Run("rolling update of the controller", e.controllerRollouts)
	t.Run("helm test", e.helmTest)
	t.Run("host ports", e.hostPorts)
	if certManagerTool() != "" {
		t.Run("cert-manager", e.certManager)
	}
	t.Run("certificates by ACME", e.acme)
	t.Run("drain of a node", e.nodeDrain)
	t.Run("traffic that stays on its node", e.localTraffic)
	t.Run("WebSockets stay open", e.webSockets)
	t.Run("gRPC", e.grpc)
	t.Run("rolling update of a backend that exits at once", e.abruptBackend)
	t.Run("a controller pod is killed", e.killed)
	t.Run("apiserver outage", e.apiserverOutage)
	t.Run("trouble is told", e.trouble)
	t.Run("leaders come and go", e.leaders)
	t.Run("upgrade and uninstall", e.uninstall)
}

// curl reaches the sample from outside of the nodes, by the load balancer and
// by node ports, http and https.
func (e *edge) curl(t *testing.T) {
	svc := e.kubectl(t, "", "get", "service", "-n", namespace, full, "-o", "jsonpath={.spec.ports[0].nodePort} {.spec.ports[1].nodePort}")
	nodePorts := strings.Fields(svc)
	for _, to := range []struct{ addr, http, https string }{
		{e.balancer.String(), "80", "443"},
		{e.Nodes()[0].Address.String(), nodePorts[0], nodePorts[1]},
		{e.Nodes()[1].Address.String(), nodePorts[0], nodePorts[1]},
	} {
		get := func(url, port string) string {
			out, err := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "20", "--cacert", e.caFile, "--resolve", host+":"+port+":"+to.addr,
				"-w", "\n%{http_code} %{http_version} %{redirect_url}", url).CombinedOutput()
			if err != nil {
				t.Errorf("curl %s at %s: %v", url, to.addr, err)
			}
			return string(out)
		}
		if got := get("http://"+host+":"+to.http+"/x", to.http); !strings.Contains(got, "\n308 1.1 https://"+host+"/x") {
			t.Errorf("http at %s: %s", to.addr, got)
		}
		if got := get("https://"+host+":"+to.https+"/x", to.https); !strings.Contains(got, `"path":"/x"`) || !strings.Contains(got, "\n200 2 ") {
			t.Errorf("https at %s: %s", to.addr, got)
		}
	}
}

// browser opens the page in a headless Chromium that trusts the test's CA by
// an NSS database, and in one that does not.
func (e *edge) browser(t *testing.T) {
	for _, program := range []string{"chromium", "certutil"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: apt-get install chromium libnss3-tools", program)
		}
	}
	open := func(trust bool) string {
		home := t.TempDir()
		db := filepath.Join(home, ".pki", "nssdb")
		if err := os.MkdirAll(db, 0o700); err != nil {
			t.Fatal(err)
		}
		commands := [][]string{{"certutil", "-d", "sql:" + db, "-N", "--empty-password"}}
		if trust {
			commands = append(commands, []string{"certutil", "-d", "sql:" + db, "-A", "-t", "C,,", "-n", "test", "-i", e.caFile})
		}
		for _, c := range commands {
			if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c, err, out)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+filepath.Join(home, "profile"),
			"--host-resolver-rules=MAP "+host+" "+e.balancer.String(), "--dump-dom", "https://"+host+"/from-a-browser")
		cmd.Env = append(os.Environ(), "HOME="+home)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("chromium: %v", err)
		}
		return string(out)
	}
	if page := open(true); !strings.Contains(page, "/from-a-browser") || !strings.Contains(page, `"pod":"shop-`) {
		t.Errorf("the page: %s", page)
	}
	if page := open(false); strings.Contains(page, `"pod":"shop-`) {
		t.Error("a browser without the CA showed the page")
	}
}

// problems: what is wrong is an Event on the object, with the way out.
func (e *edge) problems(t *testing.T) {
	e.kubectl(t, "", "create", "ingress", "broken", "--class=portico", "--rule=broken.example.test/*=nothere:80,tls=no-such-secret")
	defer e.kubectl(t, "", "delete", "ingress", "broken")
	e.eventually(t, "the Events", func() error {
		got := e.kubectl(t, "", "describe", "ingress", "broken")
		for _, want := range []string{"BackendNotServable", "Service default/nothere does not exist", "CertificateUnusable", "kubectl create secret tls no-such-secret"} {
			if !strings.Contains(got, want) {
				return fmt.Errorf("%q is missing in\n%s", want, got)
			}
		}
		return nil
	})
}

// load is a steady load on the shop.
func (e *edge) load() load.Options {
	return load.Options{
		Addr: net.JoinHostPort(e.balancer.String(), "443"), Host: host, TLS: &tls.Config{RootCAs: e.ca.Pool()},
		H1: 4, H2: 4, Post: 5, Pace: 15 * time.Millisecond, Timeout: 20 * time.Second,
	}
}

// measure runs something under a load, and says what became of the requests.
func measure(t *testing.T, opts load.Options, something func()) *load.Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan *load.Result, 1)
	go func() { done <- load.Run(ctx, opts) }()
	something()
	cancel()
	result := <-done
	t.Log(result)
	return result
}

// under runs something while requests are sent to the shop, and demands that
// none is lost.
func (e *edge) under(t *testing.T, something func()) {
	t.Helper()
	result := measure(t, e.load(), something)
	if result.Lost() > 0 || result.Answered == 0 {
		t.Errorf("requests were lost: %s\n%s", result, e.diagnose(t))
	}
}

func (e *edge) backendRollouts(t *testing.T) {
	e.under(t, func() {
		for range rounds() {
			e.kubectl(t, "", "rollout", "restart", "deployment/shop")
			e.rollout(t, "deployment/shop")
		}
	})
}

func (e *edge) scale(t *testing.T) {
	e.under(t, func() {
		for _, n := range []string{"1", "10", "1", "3"} {
			e.kubectl(t, "", "scale", "deployment/shop", "--replicas="+n)
			e.rollout(t, "deployment/shop")
		}
	})
}

// changes replaces the certificate and makes and changes Ingresses under load.
func (e *edge) changes(t *testing.T) {
	e.under(t, func() {
		cert := e.certify(t, "shop")
		e.eventually(t, "the new certificate", func() error {
			c, err := tls.Dial("tcp", net.JoinHostPort(e.balancer.String(), "443"), &tls.Config{RootCAs: e.ca.Pool(), ServerName: host})
			if err != nil {
				return err
			}
			defer c.Close()
			if !c.ConnectionState().PeerCertificates[0].Equal(cert) {
				return fmt.Errorf("the old certificate is served")
			}
			return nil
		})
		e.churn(t, 100*rounds())
	})
}

// churn makes as many changes to Ingresses: it makes, changes and deletes, the
// shop's own among them.
func (e *edge) churn(t *testing.T, changes int) {
	t.Helper()
	ingresses := e.client.NetworkingV1().Ingresses("default")
	shop, err := ingresses.Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range changes / 4 {
		other := shop.DeepCopy()
		other.ObjectMeta = metav1.ObjectMeta{Name: fmt.Sprintf("churn-%d", i)}
		other.Spec.TLS, other.Spec.Rules[0].Host = nil, other.Name+".example.test"
		if _, err := ingresses.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{other.Name, "shop"} {
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"portico.dev/proxy-read-timeout":"%d"}}}`, 60+i)
			if _, err := ingresses.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := ingresses.Delete(t.Context(), other.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.kubectl(t, "", "annotate", "ingress", "shop", "portico.dev/proxy-read-timeout-")
}

// helmTest runs the proof that users run.
func (e *edge) helmTest(t *testing.T) {
	out := e.runHelm(t, "test", release, "-n", namespace, "--logs", "--timeout", patience.String())
	if !strings.Contains(out, "rolling update 3 of 3 took ") || !strings.Contains(out, ", lost 0, over ") {
		t.Errorf("helm test:\n%s", out)
	}
	for _, line := range strings.Split(out, "\n") {
		if strings.HasPrefix(line, "sent ") {
			t.Log(line)
		}
	}
	if left := e.kubectl(t, "", "get", "deployments,services,ingresses,roles,rolebindings", "-n", namespace, "-o", "name"); strings.Contains(left, "prove") {
		t.Errorf("left behind:\n%s", left)
	}
}

func (e *edge) controllerRollouts(t *testing.T) {
	e.under(t, func() {
		for range rounds() {
			e.kubectl(t, "", "rollout", "restart", "-n", namespace, "deployment/"+full)
			e.rollout(t, "-n", namespace, "deployment/"+full)
		}
	})
	if got := e.kubectl(t, "", "get", "ingress", "shop"); !strings.Contains(got, e.balancer.String()) {
		t.Errorf("the status was cleared by a rollout:\n%s", got)
	}
}

// apiserverOutage: without an apiserver everything that is known is served.
func (e *edge) apiserverOutage(t *testing.T) {
	const apiserver = "kube-apiserver"
	pods := e.controllers(t)
	e.under(t, func() {
		if err := e.Control().Signal(t.Context(), apiserver, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods {
			e.saysSilent(t, pod)
		}
		time.Sleep(outage()) // the length of the outage is what is tested
		if err := e.Control().Restart(t.Context(), apiserver); err != nil {
			t.Fatal(err)
		}
		e.eventually(t, "the apiserver", func() error {
			_, err := e.Kubectl(t.Context(), "", "get", "--raw", "/readyz")
			return err
		})
	})
	// What is written afterwards is served: the watches came back, and so did
	// the elected replica.
	e.kubectl(t, "", "create", "ingress", "after", "--class=portico", "--rule=after.example.test/*=shop:80")
	e.eventually(t, "the status of an Ingress that was made after the outage", func() error {
		if got := e.kubectl(t, "", "get", "ingress", "after"); !strings.Contains(got, e.balancer.String()) {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// saysSilent waits until a replica tells that the apiserver does not answer.
func (e *edge) saysSilent(t *testing.T, pod corev1.Pod) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: e.Nodes()[0].DialContext}}
	for page, want := range map[string]string{
		"/readyz?verbose": "apiserver: has not answered since",
		"/metrics":        `portico_degraded{check="apiserver"} 1`,
	} {
		e.eventually(t, page+" of a replica without an apiserver", func() error {
			resp, err := client.Get("http://" + net.JoinHostPort(pod.Status.PodIP, "9090") + page)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
				return fmt.Errorf("want %q: %s, %v\n%s", want, resp.Status, err, text)
			}
			return nil
		})
	}
}

// uninstall upgrades to other values, and then removes what was installed. What
// was not is left as it was, but for the addresses in the status of Ingresses:
// also those of a class that stays, so that it is the chart's Job that removes
// them.
func (e *edge) uninstall(t *testing.T) {
	e.upgrade(t, "--set", "replicas=2", "--set", "flags.max-header-fields=200")
	pods := e.controllers(t)
	if len(pods) != 2 || !slices.ContainsFunc(pods[0].Spec.Containers[0].Args, func(a string) bool { return a == "--max-header-fields=200" }) {
		t.Errorf("%d replicas after the upgrade, with %q", len(pods), pods[0].Spec.Containers[0].Args)
	}
	e.kubectl(t, `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: stays}, spec: {controller: portico.dev/ingress-controller}}`, "apply", "-f", "-")
	e.kubectl(t, "", "create", "ingress", "stays", "--class=stays", "--rule=stays.example.test/*=shop:80")
	e.eventually(t, "the address in the status of every Ingress", func() error { return e.allShow(t, e.balancer.String()) })
	e.runHelm(t, "uninstall", release, "-n", namespace, "--wait")
	if err := e.allShow(t, ""); err != nil {
		t.Errorf("after the uninstall: %v", err)
	}
	e.eventually(t, "nothing that is left behind", func() error { // pods drain for a while
		left := e.kubectl(t, "", "get", "all,ingressclasses,clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,configmaps,leases,pdb", "-A", "-l", "app.kubernetes.io/instance="+release, "-o", "name")
		if left != "" {
			return fmt.Errorf("left: %s", left)
		}
		return nil
	})
}
