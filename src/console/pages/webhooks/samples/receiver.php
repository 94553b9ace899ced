<?php
// PHP 8, nothing to install
$key = base64_decode(preg_replace('/^whsec_/', '', getenv('WEBHOOK_SECRET')), true);
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
$signatures = explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '');
$body = file_get_contents('php://input'); // the bytes as they came, before any parsing

$expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
$genuine = false;
foreach ($signatures as $signature) {
    $genuine = hash_equals($expected, $signature) || $genuine;
}
if (!$genuine || !ctype_digit($timestamp) || abs(time() - (int) $timestamp) > 300) {
    http_response_code(401);
    return;
}
// Drop ids that you have seen: a POST may come twice.
error_log("$id $body");
http_response_code(204);
