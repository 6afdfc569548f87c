"""What to do about each kind of error, by its name: for people, and so for the verbs alone.

An error may carry a hint of its own, which says more about the one case. A name is never renamed.
"""

HINTS = {
    "agent-running": "let the agent do it, or first take the host out: systemctl stop"
    " istio-hostagent",
    "agent-unreachable": "systemctl status istio-hostagent says whether it runs, and why not",
    "apply-rejected": "the kernel refused the rules: the text names what it does not know or"
    " allow; ISTIO_HOSTAGENT_BACKEND=legacy does without nf_tables",
    "authority-unavailable": "look at the way to the CA (CA_ADDR, /etc/hosts, a firewall) and at"
    " the CA; what is held stays in use, and it is tried again by itself",
    "bootstrap-invalid": "the proxy refuses its own configuration: correct PROXY_CONFIG, ENVOY_CFG"
    " or ISTIO_BOOTSTRAP, or install another version of it",
    "bug": "a mistake in istio-hostagent: please report it with the lines of the journal",
    "certificate-copied": "the disk is a copy of another host's: istio-hostagent renew, and before"
    " the next image is made istio-hostagent reset",
    "certificate-refused": "the CA said no: give it a credential for this name"
    " (ISTIO_NAMESPACE, SERVICE_ACCOUNT, TRUST_DOMAIN), for example a new token",
    "certificate-untrusted": "the CA's answer fits neither key, name nor roots: compare"
    " root-cert.pem and TRUST_DOMAIN with those of the mesh",
    "child-failed": "see the last lines of that program in journalctl -u istio-hostagent",
    "config-gone": "put the file back, or leave a comment in it if it is to say nothing",
    "config-invalid": "correct the line that is named: it is read again as soon as it is saved",
    "config-missing": "write the file that is named (istioctl x workload entry configure makes"
    " it); nothing is captured until then",
    "control-plane-away": "look at the way to istiod and at istiod; the proxy goes on with what it"
    " has, and changes of the mesh do not reach it",
    "credential-missing": "give it a token (ISTIO_HOSTAGENT_TOKEN_FILE), a certificate in"
    " PROV_CERT, or the root certificate of the CA",
    "error": "the text says what; istio-hostagent status says how the host stands",
    "firewall-tool-failed": "run the named program by hand, or open the ports in the host's own"
    " firewall; nothing of it is changed meanwhile",
    "hook-failed": "look at what ISTIO_HOSTAGENT_RENEW_HOOK names; it is tried again by itself",
    "host-unsupported": "install or allow what is named; nothing else can stand in for it",
    "join-failed": "the reason is in the text; it is tried again by itself, at once with"
    " istio-hostagent reload",
    "kernel-busy": "others change the rules at the same time; it is tried again by itself",
    "leaving": "nothing: the host leaves the mesh, as it was told to",
    "marks-removed": "nothing: they are written again; to leave the mesh, systemctl stop"
    " istio-hostagent",
    "names-unanswered": "all files are as they were before; journalctl -u dnsmasq may say more",
    "not-deregistered": "istio-hostagent deregister takes it out; Consul itself finds it critical",
    "not-left": "nft list table inet istio_hostagent shows what is left; istio-hostagent clean"
    " takes it out",
    "not-permitted": "run it as root, or give the right that is named",
    "not-proven": "istio-hostagent verify says which packets went elsewhere; packets are sent"
    " again by themselves",
    "not-published": "make room in /run (df -h /run): status of users who are not root, checks and"
    " metrics say that the agent is silent",
    "not-reached": "let the proxy's port in where the host's firewall drops it, as the text says,"
    " or set ISTIO_HOSTAGENT_FIREWALL=open",
    "not-registered": "istio-hostagent register puts it in",
    "not-removed": "look at it, and remove it yourself if nobody needs it",
    "not-saved": "make room or rights in /var/lib/istio-hostagent: df -h, df -i, mount",
    "not-shown": "the proxy is made to load the certificate again by itself; if that goes on,"
    " systemctl restart istio-hostagent",
    "not-taken": "the control plane sends what this Envoy does not know: install Istio's own"
    " Envoy, or see docs/envoy.md",
    "not-taken-over": "istio-hostagent clean --all takes out what Istio's scripts have left, once"
    " the agent is stopped",
    "not-told": "the proxy is told again by itself, and replaced if that does not help",
    "not-watched": "raise the sysctl that is named; files are looked at every 5 s meanwhile",
    "not-written": "give root the place that ISTIO_HOSTAGENT_OUTPUTS names; it is tried again by"
    " itself",
    "nothing-to-confirm": "no rules wait here: istio-hostagent status says what became of them",
    "port-taken": "end the program that is named, or give it another port; it is tried again by"
    " itself",
    "proxy-missing": "install istio-sidecar (pilot-agent) or Envoy, or name the program:"
    " ISTIO_HOSTAGENT_ENVOY, ISTIO_BIN_BASE",
    "registry-refused": "give it the right that the text names: a token of Consul, or a role of"
    " the cluster",
    "registry-unavailable": "look at the way to the registry and at it; the agent tries again by"
    " itself",
    "rejected": "the new files did not hold, the ones before are in force: correct them, or try"
    " them once more with istio-hostagent reload",
    "resolver-silent": "it is started again by itself; journalctl -u 'istio-proxy*' has what it"
    " says",
    "rules-contested": "stop the program that is named, or let it leave the tables alone that are"
    " named",
    "still-drifted": "rules of others come before ours: nft list ruleset and iptables-legacy-save"
    " show them, istio-hostagent verify says which packets went elsewhere",
    "stuck": "processes that SIGKILL does not end hang in the kernel (a dead file system, a"
    " driver): see dmesg; nothing takes their place",
    "unconfirmed": "istio-hostagent apply --confirm keeps the rules, --go-back takes them back",
    "wrong-usage": "istio-hostagent VERB --help",
}
