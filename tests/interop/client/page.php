<?php
// A page for tests/interop/client.rs.
if (isset($_GET['status'])) {
    http_response_code((int) $_GET['status']);
}
if (isset($_GET['complain'])) {
    error_log('something to complain about');
}
if (isset($_GET['bytes'])) {
    for ($left = (int) $_GET['bytes']; $left > 0; $left -= 100000) {
        echo str_repeat('x', min($left, 100000));
    }
    exit;
}
$body = file_get_contents('php://input');
echo $_SERVER['REQUEST_METHOD'], ' ', $_SERVER['QUERY_STRING'], ' ', strlen($body), ' ', md5($body), "\n";
